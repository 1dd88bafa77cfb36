"""Curves of quality against achieved sparsity: `plot_*(rows, ax)` draws on axes that the caller made."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from sparseact.report.style import LIGHT, UNITS, MetricStyle, Theme, in_order, is_oracle, metric_style
from sparseact.utils.files import write_atomically

QUANTITIES: Final = {
    "agreement": "agreement with the dense tokens",
    "kl": "KL, dense to sparse (nats per token)",
    "nll": "NLL of the dense token (nats)",
    "bleu": "BLEU against the dense text",
    "leak": "leak: says the runner-up instead",
}
_LOG_TICKS: Final = [m * 10.0**e for e in range(-4, 5) for m in (1, 3)]
_SHARES: Final = ("agreement", "leak")


def plot_quantity(rows: pd.DataFrame, ax: Axes, column: str, *, theme: Theme = LIGHT) -> Axes:
    """Draw one quantity against achieved sparsity, a line for each metric.

    Label-free metrics are solid with filled markers, oracles dashed with hollow ones. A band is the
    interval in `{column}_low` and `{column}_high` where those are finite. A metric without the
    quantity (NaN) is left out.

    Args:
        rows: rows of sweep.csv of one value of `units`, with the interval columns.
        ax: where to draw.
        column: a key of QUANTITIES.
        theme: colours of everything but the data.
    """
    style_axes(ax, theme)
    for metric in in_order(rows["metric"].tolist()):
        of_metric = rows[(rows["metric"] == metric) & np.isfinite(rows[column])].sort_values("achieved")
        if of_metric.empty:
            continue
        look, off = metric_style(metric), of_metric["achieved"]
        band = of_metric[f"{column}_low"], of_metric[f"{column}_high"]
        ax.fill_between(off, *band, color=look.colour, alpha=0.18, linewidth=0)
        ax.add_line(_line(look, theme, oracle=is_oracle(metric), x=off, y=of_metric[column]))
    ax.autoscale_view()
    if column in ("kl", "nll"):
        _logarithmic(ax, rows[column], rows[[f"{column}_low", f"{column}_high"]])
    else:
        top = 100 if column == "bleu" else 1
        ax.set_ylim(-0.03 * top, 1.04 * top)
    if column == "nll":
        _mark_dense(ax, rows["nll_dense"].mean(), theme)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.0f}%"))
    ax.set_xlabel("sparsity achieved (share of weight bytes off)")
    ax.set_title(QUANTITIES[column], loc="left", fontsize=9.5, color=theme.ink, fontweight="bold")
    return ax


def legend_lines(metrics: Iterable[str], *, oracle: bool, theme: Theme = LIGHT) -> list[Line2D]:
    """The legend's lines of those metrics that are (or are not) oracles, in order."""
    chosen = [metric for metric in in_order(list(metrics)) if is_oracle(metric) is oracle]
    return [_line(metric_style(metric), theme, oracle=oracle) for metric in chosen]


def write_curve(rows: pd.DataFrame, path: Path, *, units: str, title: str) -> None:
    """Write the key picture, 1,660 pixels wide: agreement, and beside it the leak (KL without one).

    Args:
        rows: sweep.csv with intervals; only those of `units` are drawn.
        path: the PNG.
        units: mlp, heads or both.
        title: one line above the panels.
    """
    rows = rows[rows["units"] == units]
    beside = "leak" if np.isfinite(rows["leak"]).any() else "kl"
    figure = Figure(figsize=(8.3, 3.7), layout="constrained", facecolor=LIGHT.paper)
    left, right, key = figure.subplots(1, 3, width_ratios=[3, 3, 1.85])
    for ax, column in ((left, "agreement"), (right, beside)):
        plot_quantity(rows, ax, column)
        ax.set_xlabel("")
    figure.supxlabel(f"{UNITS[units]} off: share of their weight bytes, achieved", fontsize=9, color=LIGHT.ink)
    heading = figure.suptitle(drawable(title), x=0.012, ha="left", fontsize=11, color=LIGHT.ink, fontweight="bold")
    heading.set_parse_math(False)
    _draw_key(key, rows["metric"].tolist())
    if np.isfinite(rows["agreement_low"]).any():
        note = "bands: 95% interval,\nbootstrap over questions"
        key.text(0, 0, note, fontsize=8, color=LIGHT.muted, va="bottom", in_layout=False)
    save(figure, path, dpi=200)


def png(figure: Figure, *, dpi: int) -> bytes:
    """A figure as PNG without a date or version in it: the same figure gives the same bytes."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=dpi)
    # A chart needs no more than 256 colours; a third of the bytes, and a page holds dozens of these.
    Image.open(full).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue()


def drawable(text: str) -> str:
    """The text with white squares for what matplotlib's own font lacks (most scripts, emoji)."""
    font = get_font(findfont("DejaVu Sans"))
    return "".join(char if font.get_char_index(ord(char)) else "□" for char in text)


def save(figure: Figure, path: Path, *, dpi: int) -> None:
    """Write a figure to a PNG file, whole or not at all."""
    drawn = png(figure, dpi=dpi)
    with write_atomically(path) as temporary:
        temporary.write_bytes(drawn)


def style_axes(ax: Axes, theme: Theme) -> None:
    """Give axes the theme's paper, ink and a quiet grid."""
    ax.set_facecolor(theme.paper)
    ax.grid(visible=True, color=theme.grid, linewidth=0.8)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.muted)
    ax.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=8.5)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=theme.ink, fontsize=9)


def _line(look: MetricStyle, theme: Theme, *, oracle: bool, x: Iterable[float] = (), y: Iterable[float] = ()) -> Line2D:
    return Line2D(
        np.asarray(x, float),
        np.asarray(y, float),
        color=look.colour,
        label=look.name,
        marker=look.marker,
        markersize=5,
        markerfacecolor=theme.paper if oracle else look.colour,
        linewidth=1.8,
        linestyle=(0, (4, 1.8)) if oracle else "solid",
    )


def _logarithmic(ax: Axes, values: pd.Series, bands: pd.DataFrame) -> None:
    """A logarithmic axis with ticks at 1 and 3 times powers of ten; zeros (dense rows) are left out."""
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.empty:
        return
    # Room for the bands (NaN without a spread), but one that reaches to zero must not flatten the curves.
    ends = bands.to_numpy(float).ravel()
    low = max(np.fmin(positive.min(), np.fmin.reduce(ends)), positive.min() / 4) / 1.3
    high = np.fmax(positive.max(), np.fmax.reduce(ends)) * 1.3
    ax.set_yscale("log", nonpositive="mask")
    ax.set_ylim(low, high)
    ax.yaxis.set_major_locator(FixedLocator([tick for tick in _LOG_TICKS if low <= tick <= high]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _mark_dense(ax: Axes, dense: float, theme: Theme) -> None:
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, dense / 1.6), max(high, dense * 1.6))
    ax.axhline(dense, color=theme.ink, linewidth=1.1, linestyle="dotted")
    beside_axes = ax.get_yaxis_transform()
    ax.text(1.01, dense, f"dense\n{dense:.2f}", transform=beside_axes, color=theme.ink, fontsize=8.5, va="center")


def _draw_key(ax: Axes, metrics: list[str]) -> None:
    ax.set_axis_off()
    height = 1.0
    for oracle, heading in ((False, "never sees the label"), (True, "uses the label (oracle)")):
        lines = legend_lines(metrics, oracle=oracle)
        if not lines:
            continue
        legend = ax.legend(
            handles=lines,
            title=heading,
            loc="upper left",
            bbox_to_anchor=(0, height),
            frameon=False,
            fontsize=8.5,
            title_fontsize=8.5,
            alignment="left",
            borderaxespad=0,
            handlelength=2.8,
            labelcolor=LIGHT.ink,
        )
        legend.get_title().set(fontweight="bold", color=LIGHT.ink)
        legend.set_in_layout(False)  # the column's width is given; the legend must not squeeze the panels
        ax.add_artist(legend)
        height -= 0.07 * len(lines) + 0.13
