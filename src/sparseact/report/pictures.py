"""The page's pictures: each drawn twice, for light and for dark pages, and put into the page itself."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseact.report.heatmaps import plot_heatmap
from sparseact.report.plots import QUANTITIES, plot_quantity, png
from sparseact.report.style import DARK, LIGHT, UNITS, Theme, in_order, metric_style

_PANEL_SIZE: Final = (4.6, 3.2)  # inches: still readable when a phone shows it 340 pixels wide
_DPI: Final = 170


@dataclass(frozen=True)
class Picture:
    """One picture as data URIs, for light and for dark pages, and what it shows in words."""

    light: str
    dark: str
    alt: str


def panels(rows: pd.DataFrame) -> dict[str, dict[str, Picture]]:
    """For each kind of units that was swept, a picture of each quantity that was measured."""
    pictures: dict[str, dict[str, Picture]] = {}
    for units in (name for name in UNITS if name in set(rows["units"])):
        of_units = rows[rows["units"] == units]
        pictures[units] = {
            column: picture(
                partial(_draw_quantity, of_units, column),
                f"{QUANTITIES[column]} against achieved sparsity, {UNITS[units]}",
            )
            for column in QUANTITIES
            if np.isfinite(of_units[column]).any()
        }
    return pictures


def layer_pictures(diagnostics: pd.DataFrame) -> dict[str, Picture]:
    """For each kind of units, layers x metrics: the mean share of |score| over prompts."""
    of_layers = diagnostics[diagnostics["quantity"] == "layer_share"]
    pictures = {}
    for units in (name for name in UNITS if name in set(of_layers["units"])):
        part = of_layers[of_layers["units"] == units]
        table = part.pivot_table(index="layer", columns="metric", values="value", observed=True)
        table = table[in_order(table.columns.tolist())]
        pictures[units] = _heatmap(
            table,
            [str(layer) for layer in table.index],
            ylabel="layer",
            alt=f"share of each metric's total score by layer, {UNITS[units]}",
            height=1.3 + 0.15 * len(table),
        )
    return pictures


def overlap_pictures(diagnostics: pd.DataFrame, sparsity: float) -> dict[str, tuple[float, Picture]]:
    """For each kind of units the level nearest to `sparsity` and the metrics x metrics matrix there."""
    overlap = diagnostics[diagnostics["quantity"] == "overlap"]
    pictures = {}
    for units in (name for name in UNITS if name in set(overlap["units"])):
        part = overlap[overlap["units"] == units]
        level = float(min(part["sparsity"].unique(), key=lambda found: abs(found - sparsity)))
        at_level = part[np.isclose(part["sparsity"].astype(float), level)]
        table = at_level.pivot_table(index="metric", columns="other", values="value", observed=True)
        order = in_order([*table.index, *table.columns])
        table = table.reindex(index=order, columns=order)
        pictures[units] = (
            level,
            _heatmap(
                table,
                [metric_style(metric).name for metric in order],
                top=1.0,
                annotate=True,
                alt=f"overlap of the kept {UNITS[units]} between metrics",
                height=1.4 + 0.32 * len(order),
            ),
        )
    return pictures


def picture(draw: Callable[[Axes, Theme], Any], alt: str, size: tuple[float, float] = _PANEL_SIZE) -> Picture:
    """What `draw` puts on axes, in both themes; the size is in inches."""
    return Picture(_data_uri(draw, size, LIGHT), _data_uri(draw, size, DARK), alt)


def _data_uri(draw: Callable[[Axes, Theme], Any], size: tuple[float, float], theme: Theme) -> str:
    figure = Figure(figsize=size, layout="constrained", facecolor=theme.paper)
    draw(figure.subplots(), theme)
    return "data:image/png;base64," + base64.b64encode(png(figure, dpi=_DPI)).decode("ascii")


def _draw_quantity(rows: pd.DataFrame, column: str, ax: Axes, theme: Theme) -> None:
    plot_quantity(rows, ax, column, theme=theme)


def _heatmap(
    table: pd.DataFrame,
    names: list[str],
    *,
    alt: str,
    height: float,
    ylabel: str = "",
    top: float | None = None,
    annotate: bool = False,
) -> Picture:
    def draw(ax: Axes, theme: Theme) -> None:
        columns = [metric_style(metric).name for metric in table.columns]
        values = table.to_numpy(float)
        mesh = plot_heatmap(values, ax, rows=names, columns=columns, theme=theme, top=top, annotate=annotate)
        ax.set_ylabel(ylabel)
        if not annotate:
            bar = ax.figure.colorbar(mesh, ax=ax, format="{x:.0%}", pad=0.02)
            bar.ax.tick_params(labelsize=8.5, colors=theme.ink)
            bar.outline.set_visible(False)

    return picture(draw, alt, (_PANEL_SIZE[0], height))
