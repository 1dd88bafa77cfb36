"""Heat maps: where the attribution lies among the layers, and how far metrics keep the same units."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from sparseact.errors import InputError
from sparseact.report.plots import drawable, save, style_axes
from sparseact.report.style import LIGHT, UNITS, Theme

_LABEL_WIDTH: Final = 14  # characters of a token that are shown
_MOST_LABELS: Final = 96  # more tokens than this, and only every second, third ... is named
_VISIBLE: Final = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍", " ": "·"})


def plot_heatmap(
    shares: np.ndarray,
    ax: Axes,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    theme: Theme = LIGHT,
    top: float | None = None,
    annotate: bool = False,
) -> QuadMesh:
    """Draw a matrix of shares [rows, columns], row 0 on top; the mesh is returned for a colour bar.

    `top` is the value of the strongest colour (the largest share if not given); NaN is left blank;
    `annotate` writes each value into its cell. Labels are drawn as they are: no mathematics in them.
    """
    style_axes(ax, theme)
    ax.grid(visible=False)
    known = shares[np.isfinite(shares)]
    limit = top if top is not None else float(known.max(initial=0)) or 1.0
    mesh = ax.pcolormesh(np.ma.masked_invalid(shares), cmap=theme.colormap, vmin=0, vmax=limit, rasterized=True)
    ax.invert_yaxis()
    _name_ticks(ax, rows, columns)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(length=0)
    if annotate:
        _write_values(ax, shares, limit, theme)
    return mesh


def layer_shares(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The share of each token's total |score| that each layer holds, for each kind of unit.

    Args:
        scores: `{kind}.{layer}` -> float array [tokens, units of that layer].

    Returns:
        kind -> float64 [layers, tokens]; columns sum to 1, or to 0 for a token without any score.

    Raises:
        InputError: a name or shape that is not as above.
    """
    totals: dict[str, dict[int, np.ndarray]] = {}
    for name, values in scores.items():
        kind, _, layer = name.partition(".")
        if not layer.isdecimal() or np.ndim(values) != 2:
            raise InputError(f"scores: {name!r} of shape {np.shape(values)}; valid: mlp.0 of [tokens, units]")
        totals.setdefault(kind, {})[int(layer)] = np.abs(np.asarray(values, dtype=np.float64)).sum(axis=1)
    shares = {}
    for kind, by_layer in totals.items():
        if len({len(total) for total in by_layer.values()}) != 1:
            raise InputError(f"scores: the layers of {kind} differ in their number of tokens")
        stacked = np.stack([by_layer[layer] for layer in sorted(by_layer)])
        whole = stacked.sum(axis=0)
        shares[kind] = np.divide(stacked, whole, out=np.zeros_like(stacked), where=whole > 0)
    return shares


def write_heatmap(
    scores: Mapping[str, np.ndarray], token_labels: Sequence[str], path: Path, *, title: str = ""
) -> None:
    """Write the layers x tokens heat map of `sparseact.report.write_heatmap`."""
    shares = layer_shares(scores)
    tokens = len(token_labels)
    if not shares or any(share.shape[1] != tokens for share in shares.values()):
        raise InputError(f"scores: {tokens} token labels for scores of other lengths")
    layers = sum(len(share) for share in shares.values())
    size = (float(np.clip(1.9 + 0.24 * tokens, 5, 24)), 1.6 * len(shares) + 0.13 * layers + 1.0)
    figure = Figure(figsize=size, layout="constrained", facecolor=LIGHT.paper)
    heights = [len(share) + 6 for share in shares.values()]
    panels = figure.subplots(len(shares), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    labels = [token_label(text) for text in token_labels]
    for (kind, share), ax in zip(shares.items(), panels, strict=True):
        mesh = plot_heatmap(share, ax, rows=[str(layer) for layer in range(len(share))], columns=labels)
        ax.set_ylabel("layer")
        ax.set_title(UNITS.get(kind, kind), loc="left", fontsize=9.5, color=LIGHT.ink, fontweight="bold")
        ax.tick_params(axis="x", labelbottom=ax is panels[-1])
        bar = figure.colorbar(mesh, ax=ax, format="{x:.0%}", pad=0.01)
        bar.ax.tick_params(labelsize=8)
        bar.set_label("share of the token's |score|", fontsize=8.5)
        bar.outline.set_visible(False)
    if title:
        title, fitting = " ".join(title.split()), int(12 * size[0])
        title = title if len(title) <= fitting else title[: fitting - 1] + "…"
        figure.suptitle(drawable(title), x=0.012, ha="left", fontsize=10.5, parse_math=False)
    save(figure, path, dpi=160)


def token_label(text: str) -> str:
    """A token's text for an axis: white space made visible, cut to 14 characters, never empty."""
    shown = drawable(text.translate(_VISIBLE))
    return (shown if len(shown) <= _LABEL_WIDTH else shown[: _LABEL_WIDTH - 1] + "…") or "∅"


def _name_ticks(ax: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    for axis, names, most in ((ax.yaxis, rows, 40), (ax.xaxis, columns, _MOST_LABELS)):
        step = -(-len(names) // most)
        axis.set_ticks(np.arange(0, len(names), step) + 0.5, labels=list(names[::step]))
        for label in axis.get_ticklabels():
            label.set(parse_math=False, fontsize=8.5 if len(names) <= 40 else 7)
    crowded = any(len(name) > 3 for name in columns)
    ax.tick_params(axis="x", labelrotation=90 if crowded else 0)


def _write_values(ax: Axes, shares: np.ndarray, limit: float, theme: Theme) -> None:
    colormap = colormaps[theme.colormap]
    for (row, column), value in np.ndenumerate(shares):
        if not np.isfinite(value):
            continue
        red, green, blue, _ = colormap(value / limit)
        bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5
        ink = "#111418" if bright else "#ffffff"
        text = f"{value:.2f}".removeprefix("0") if value < 1 else "1"
        ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=8.5)
