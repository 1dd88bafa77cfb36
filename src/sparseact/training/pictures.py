"""The page's pictures: loss, and density by layer, against the tokens trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from sparseact.report.heatmaps import plot_heatmap
from sparseact.report.pictures import Picture, picture
from sparseact.report.plots import style_axes
from sparseact.report.style import Theme

COLOURS = ("#2563c9", "#b4541a")
WIDTH = 6.4
"""Inches."""
COLUMNS = 60
"""Columns of the densities at most; more rows of a log are thinned."""


def loss_picture(curves: Mapping[str, Sequence[tuple[float, float]]], label: str) -> Picture:
    """Lines through (tokens, loss) by name; `label` says what the loss is."""
    return picture(partial(_draw_losses, curves, label), "loss against tokens trained on", (WIDTH, 2.8))


def density_picture(log: Sequence[Mapping[str, Any]]) -> Picture:
    """Layers (down) x tokens (across): the more of a layer's units were on, the stronger."""
    rows = log[:: -(-len(log) // COLUMNS)]
    height = 1.3 + 0.15 * len(rows[0]["layers"])
    return picture(partial(_draw_densities, rows), "density by layer against tokens trained on", (WIDTH, height))


def _draw_losses(curves: Mapping[str, Sequence[tuple[float, float]]], label: str, ax: Axes, theme: Theme) -> None:
    style_axes(ax, theme)
    for (name, points), colour in zip(curves.items(), COLOURS, strict=False):
        ax.plot(*zip(*points, strict=True), color=colour, label=name, linewidth=1.8, marker=".")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.set_xlim(left=0)
    ax.set_xlabel("tokens trained on")
    ax.set_ylabel(label)
    ax.legend(frameon=False, fontsize=8.5, labelcolor=theme.ink)


def _draw_densities(rows: Sequence[Mapping[str, Any]], ax: Axes, theme: Theme) -> None:
    values = np.array([list(row["layers"].values()) for row in rows]).T
    mesh = plot_heatmap(values, ax, rows=list(rows[0]["layers"]), columns=[""] * len(rows), theme=theme, top=1.0)
    ends = sorted({0, len(rows) - 1})
    ax.set_xticks([end + 0.5 for end in ends], labels=[f"{rows[end]['tokens']:,}" for end in ends])
    ax.set_xlabel("tokens trained on")
    ax.set_ylabel("layer")
    bar = ax.figure.colorbar(mesh, ax=ax, format="{x:.0%}", pad=0.02)
    bar.ax.tick_params(labelsize=8.5, colors=theme.ink)
    bar.outline.set_visible(False)
