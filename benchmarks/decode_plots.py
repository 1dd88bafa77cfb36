"""Pictures of decode.py's rows: perplexity against speed, and speed against bytes under the memory's roof."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from decode_table import Group, Result
from sparseact.bench.rates import Spread
from sparseact.files import write_atomically

LOOKS = {
    "engine": ("#E0670A", "o"),
    "transformers": ("#808080", "s"),
    "llama.cpp": ("#0086E3", "^"),
    "ik_llama.cpp": ("#2B8846", "D"),
}
"""Colour and marker by engine."""


def write_plots(groups: Sequence[Group], folder: Path) -> None:
    """frontier.png and roofline.png, a panel for each group that has results."""
    shown = [group for group in groups if group.results]
    for name, draw in {"frontier": draw_frontier, "roofline": draw_roofline}.items():
        figure = Figure(figsize=(7.2 * max(len(shown), 1), 5.2), layout="constrained")
        for ax, group in zip(figure.subplots(1, max(len(shown), 1), squeeze=False)[0], shown, strict=False):
            draw(group, ax)
            ax.set_title(f"{group.settings['model']}, {group.threads} thread(s)", loc="left")
            ax.grid(alpha=0.3, which="both")
        with write_atomically(folder / f"{name}.png") as path:
            figure.savefig(path, dpi=130)


def draw_frontier(group: Group, ax: Axes) -> None:
    """Perplexity against tokens per second: right and down is better; the line joins what nothing beats."""
    points = [(*_speed(result), result.check["decode"]) for result in group.results]
    for result, (speed, low, high, quality) in zip(group.results, points, strict=True):
        _mark(ax, result, speed, quality, [[speed - low], [high - speed]])
    best = [(s, q) for s, _, _, q in points if not any(t > s and p < q for t, _, _, p in points)]
    ax.plot(*zip(*sorted(best), strict=True), color="#59636e", linewidth=0.8, zorder=1)
    ax.set_xlabel("decode, tokens per second")
    ax.set_ylabel("perplexity through the decode path")
    ax.set_xlim(0, 1.3 * max(high for _, _, high, _ in points))  # room for the last name


def draw_roofline(group: Group, ax: Axes) -> None:
    """Tokens per second against bytes read for each, under the bandwidth that was measured in the same rounds."""
    for result in group.results:
        speed, low, high = _speed(result)
        _mark(ax, result, result.check["bytes_per_token"] / 1e6, speed, [[speed - low], [high - speed]], upright=True)
    sizes = [result.check["bytes_per_token"] / 1e6 for result in group.results]
    line = np.geomspace(min(sizes) / 1.5, max(sizes) * 1.5, 50)
    if group.bandwidth:
        roof = Spread.of([value / 1e6 for value in group.bandwidth.values()])
        ax.plot(line, roof.median / line, color="#1b1f24", label=f"memory, {roof.median / 1e3:.1f} GB/s")
        ax.fill_between(line, roof.least / line, roof.most / line, color="#1b1f24", alpha=0.1, linewidth=0)
        ax.legend(frameon=False)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("weights read per token, MB")
    ax.set_ylabel("decode, tokens per second")


def _speed(result: Result) -> tuple[float, float, float]:
    spread = Spread.of([*result.decode.values()])
    return spread.median, spread.least, spread.most


def _mark(ax: Axes, result: Result, x: float, y: float, spread: list[list[float]], *, upright: bool = False) -> None:
    colour, marker = LOOKS[result.engine]
    ax.errorbar(x, y, **{"yerr" if upright else "xerr": spread}, fmt=marker, color=colour, elinewidth=0.8, markersize=5)
    ax.annotate(result.runner, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7, color=colour)
