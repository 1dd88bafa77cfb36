"""Charts of a training as SVG text, which needs no library to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from markupsafe import Markup

COLOURS = ("#2563c9", "#b4541a", "#5b8c2a")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 260, 64, 36, 12
COLUMNS = 60
"""Columns of a density map at most; more rows of a log are thinned."""


def line_chart(curves: Mapping[str, Sequence[tuple[float, float]]], x_title: str, y_title: str) -> Markup:
    """Lines through (x, y) points by name, axes from 0 on x and from the least to the greatest on y."""
    points = [point for curve in curves.values() for point in curve]
    right = max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    high = high if high > low else low + 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - 12) * x / right
        return across, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (y - low) / (high - low)

    parts = [_frame(x_title, y_title)]
    parts += [_text(LEFT - 6, place(0, tick)[1] + 4, f"{tick:.3g}", "end") for tick in (low, (low + high) / 2, high)]
    parts += [
        _text(place(tick, low)[0], HEIGHT - BOTTOM + 15, f"{tick:,.0f}", "middle") for tick in (0, right / 2, right)
    ]
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        line = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in curve)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(WIDTH - 12, TOP + 14 + 16 * index, name, "end", colour))
    return _svg(parts, f"{y_title} against {x_title}")


def density_map(rows: Sequence[tuple[float, Mapping[str, float]]]) -> Markup:
    """Density by layer (down) over tokens (across): the darker, the more of a layer's units are on."""
    rows = rows[:: -(-len(rows) // COLUMNS)]
    layers = list(rows[0][1])
    wide, high = (WIDTH - LEFT - 12) / len(rows), (HEIGHT - BOTTOM - TOP) / len(layers)
    parts = [_frame("tokens trained on", "layer")]
    for column, (tokens, found) in enumerate(rows):
        for index, layer in enumerate(layers):
            x, y = LEFT + column * wide, TOP + index * high
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide + 0.3:.1f}" height="{high + 0.3:.1f}" fill="#2563c9" '
                f'fill-opacity="{found[layer]:.2f}"><title>layer {escape(layer)}, {tokens:,.0f} tokens: '
                f"{found[layer]:.1%} on</title></rect>"
            )
    step = max(1, len(layers) // 8)
    parts += [
        _text(LEFT - 6, TOP + (index + 0.5) * high + 4, layers[index], "end") for index in range(0, len(layers), step)
    ]
    parts += [
        _text(LEFT + (column + 0.5) * wide, HEIGHT - BOTTOM + 15, f"{rows[column][0]:,.0f}", "middle")
        for column in (0, len(rows) - 1)
    ]
    return _svg(parts, "density by layer over tokens")


def _frame(x_title: str, y_title: str) -> str:
    right, floor = WIDTH - 12, HEIGHT - BOTTOM
    middle = (floor + TOP) / 2
    return (
        f'<path d="M{LEFT} {TOP}V{floor}H{right}" fill="none" stroke="currentColor" stroke-opacity=".4"/>'
        + _text((LEFT + right) / 2, HEIGHT - 4, x_title, "middle")
        + f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(y_title)}</text>'
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = "currentColor") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _svg(parts: Sequence[str], title: str) -> Markup:
    style = 'font-size="11" font-family="inherit" fill="currentColor" width="100%"'
    inner = "".join(parts)  # of numbers and escaped text
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" {style}>{inner}</svg>')  # noqa: S704
