"""Pictures of decode.py's rows: perplexity against speed, and speed against bytes under the memory's roof."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter

from sparseact.bench.rates import Spread
from sparseact.bench.summary import Group, Result
from sparseact.utils.files import write_atomically

LOOKS = {
    "engine": ("#E0670A", "o"),
    "transformers": ("#808080", "s"),
    "llama.cpp": ("#0086E3", "^"),
    "ik_llama.cpp": ("#2B8846", "D"),
    "onnxruntime-genai": ("#8250C4", "v"),
    "openvino-genai": ("#B4367A", "P"),
    "mistralrs": ("#7A6A00", "X"),
}
"""Colour and marker by engine; sparse runs are hollow."""
WIDTH, HEIGHT = 9.0, 7.0
"""Points of the screen that a number takes."""


def write_plots(groups: Sequence[Group], folder: Path) -> None:
    """engine-frontier.png and engine-roofline.png: a row of panels for each model, one for each number of threads."""
    shown = [group for group in groups if group.results]
    models, threads = ([*dict.fromkeys(names)] for names in zip(*map(_place, shown), strict=True))
    for name, draw in {"frontier": draw_frontier, "roofline": draw_roofline}.items():
        figure = Figure(figsize=(8.4 * len(threads), 6.4 * len(models)), layout="constrained")
        panels = figure.subplots(len(models), len(threads), squeeze=False)
        for ax in panels.flat:
            ax.set_visible(False)
        for group in shown:
            model, count = _place(group)
            ax = panels[models.index(model)][threads.index(count)]
            ax.set_visible(True)
            draw(group, ax)
            ax.set_title(f"{model}, {count} thread(s)", loc="left")
            ax.grid(alpha=0.3, which="both")
        with write_atomically(folder / f"engine-{name}.png") as path:
            figure.savefig(path, dpi=110)


def _place(group: Group) -> tuple[str, int]:
    return group.settings["model"], group.threads


def draw_frontier(group: Group, ax: Axes) -> None:
    """Perplexity against tokens per second: right and down is better; the line joins what nothing beats."""
    points = [(_speed(result), result.perplexity) for result in group.results]
    ax.set_yscale("log")
    ax.set_xlim(0, 1.05 * max(speed.most for speed, _ in points))
    for result, (speed, quality) in zip(group.results, points, strict=True):
        bars = [[speed.median - speed.least], [speed.most - speed.median]]
        _draw(ax, result, speed.median, quality, xerr=bars)
    best = [
        (speed.median, quality)
        for speed, quality in points
        if not any(other.median > speed.median and better < quality for other, better in points)
    ]
    ax.plot(*zip(*sorted(best), strict=True), color="#59636e", linewidth=0.8, zorder=1)
    for axis in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        axis(ScalarFormatter())
    _number(ax, group.results, [(speed.median, quality) for speed, quality in points])
    _legend(ax, group.results, place="upper left")
    ax.set_xlabel("decode, tokens per second")
    ax.set_ylabel("perplexity through the decode path")


def draw_roofline(group: Group, ax: Axes) -> None:
    """Tokens per second against bytes read for each, under the bandwidth that was measured in the same rounds."""
    points = [(result.check["bytes_per_token"] / 1e6, _speed(result)) for result in group.results]
    ax.set_xscale("log")
    ax.set_yscale("log")
    for result, (size, speed) in zip(group.results, points, strict=True):
        _draw(ax, result, size, speed.median, yerr=[[speed.median - speed.least], [speed.most - speed.median]])
    sizes = [size for size, _ in points]
    line = np.geomspace(min(sizes) / 1.5, max(sizes) * 1.5, 50)
    roofs = []
    if group.bandwidth:
        roof = Spread.of([value / 1e6 for value in group.bandwidth.values()])
        roofs = ax.plot(line, roof.median / line, color="#1b1f24", label=f"memory, {roof.median / 1e3:.1f} GB/s")
        ax.fill_between(line, roof.least / line, roof.most / line, color="#1b1f24", alpha=0.1, linewidth=0)
    _number(ax, group.results, [(size, speed.median) for size, speed in points])
    _legend(ax, group.results, roofs, place="lower left")
    ax.set_xlabel("weights read per token, MB")
    ax.set_ylabel("decode, tokens per second")


def _speed(result: Result) -> Spread:
    return Spread.of([*result.decode.values()])


def _draw(ax: Axes, result: Result, x: float, y: float, **bars: list[list[float]]) -> None:
    colour, marker = LOOKS[result.engine]
    face = "none" if result.check["recipe"] else colour
    ax.errorbar(x, y, **bars, fmt=marker, color=colour, markerfacecolor=face, elinewidth=0.8, markersize=5)


def _number(ax: Axes, results: Sequence[Result], points: Sequence[tuple[float, float]]) -> None:
    """A number at each point, moved up until it covers none of the others, and the names at the right."""
    pixels = ax.transData.transform(points) * 72 / ax.figure.dpi
    taken: list[tuple[float, float]] = []
    for place in np.argsort(pixels[:, 1]):
        x, height = pixels[place] + 2
        for left, bottom in sorted(taken, key=lambda box: box[1]):
            if abs(left - x) < WIDTH and abs(bottom - height) < HEIGHT:
                height = bottom + HEIGHT
        taken.append((x, height))
        colour = LOOKS[results[place].engine][0]
        offset = {"textcoords": "offset points", "xytext": (4, height - pixels[place, 1])}
        ax.annotate(str(place + 1), points[place], **offset, fontsize=6.5, color=colour)
    for number, result in enumerate(results, start=1):
        place = {"xy": (1, 1), "xytext": (6, -9.5 * number), "textcoords": "offset points"}
        colour = LOOKS[result.engine][0]
        ax.annotate(f"{number}  {result.label}", **place, xycoords="axes fraction", fontsize=7, color=colour)


def _legend(ax: Axes, results: Sequence[Result], more: Sequence[Line2D] = (), *, place: str) -> None:
    """Marker and colour of each engine."""
    handles = [
        Line2D([], [], color=LOOKS[engine][0], marker=LOOKS[engine][1], linestyle="", label=engine)
        for engine in dict.fromkeys(result.engine for result in results)
    ]
    if any(result.check["recipe"] for result in results):
        colour, marker = LOOKS["engine"]
        look = {"color": colour, "marker": marker, "markerfacecolor": "none", "linestyle": ""}
        handles.append(Line2D([], [], **look, label="engine, sparse"))
    ax.legend(handles=[*handles, *more], frameon=False, fontsize=8, loc=place)
