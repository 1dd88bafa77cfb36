"""Weights in the order of a layout, see `layouts`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sparseact.engine.quant.layouts import CHUNK, PANEL, SPREAD, bytes_of_low_row, shape_of
from sparseact.models.formats import BLOCK, Array, Bytes, Quantised


@dataclass(frozen=True)
class Packed:
    """The bytes of a linear in a layout; `scales` and `mins` are None where the format has none; `low` is of planes."""

    codes: Bytes
    scales: Bytes | None
    mins: Bytes | None
    low: Bytes | None = None


def pack(weights: Quantised, layout: str) -> Packed:
    """Weights in the order of a layout: "panels", "columns", "rows" or, of q8, "planes"."""
    shape = shape_of(weights.format, layout, weights.outputs, weights.inputs)
    # Padding has the scale 0, and meets activations that are 0.
    codes = _padded(weights.codes, shape.padded_outputs, shape.padded_inputs)
    if weights.format == "q8":
        # The product of bytes takes unsigned times signed: weights are stored with 128 added.
        codes = codes.astype(np.uint8) + np.uint8(128)
    low = None
    if layout == "planes":
        assert weights.scales is not None
        low = _bytes(_low_rows(codes & np.uint8(15), _padded(weights.scales, len(codes), codes.shape[1] // BLOCK)))
        codes = codes >> np.uint8(4)
    order, order_scales = _ORDERS[layout]
    scales, mins = (
        None
        if part is None
        else _bytes(order_scales(_padded(part, shape.padded_outputs, shape.padded_inputs // BLOCK)))
        for part in (weights.scales, weights.mins)
    )
    packed = _bytes(order(codes, "q4" if layout == "planes" else weights.format))
    if layout == "rows":
        # One place to read a row from, not three.
        parts = [part.reshape(weights.outputs, -1) for part in (packed, scales, mins) if part is not None]
        return Packed(_bytes(np.concatenate(parts, axis=1)), None, None)
    return Packed(packed, scales, mins, low)


def _panels(codes: Array, format: str) -> Array:  # noqa: A002
    """f32: [panel, input, row]. bf16: pairs of inputs. q8: fours of inputs. q4: as q8, with two fours in a byte."""
    rows, inputs = codes.shape
    panels = rows // PANEL
    if format == "f32":
        return codes.reshape(panels, PANEL, inputs).transpose(0, 2, 1)
    if format == "bf16":
        return codes.reshape(panels, PANEL, inputs // 2, 2).transpose(0, 2, 1, 3)
    if format == "q8":
        return codes.reshape(panels, PANEL, inputs // 4, 4).transpose(0, 2, 1, 3)
    # Of the 32 inputs of a block, the first 16 are low nibbles and the last 16 are high nibbles.
    halves = codes.reshape(panels, PANEL, inputs // BLOCK, 2, 4, 4).transpose(3, 0, 2, 4, 1, 5)
    return _nibbles(halves[0], halves[1])


def _panel_scales(scales: Array) -> Array:
    rows, blocks = scales.shape
    return scales.reshape(rows // PANEL, PANEL, blocks).transpose(0, 2, 1)


def _columns(codes: Array, format: str) -> Array:  # noqa: A002
    """[input, output]. Within 64 outputs, codes of 8 and 4 bits are put so that interleaving gives natural order.

    The kernel interleaves the bytes of four columns by instructions that work in each 16 bytes apart:
    16 bytes of a column come out as 4 vectors of 4 rows. So rows 16 z + 4 l + i lie at 16 l + 4 z + i.
    """
    columns = codes.T
    if format in {"f32", "bf16"}:
        return columns
    inputs, outputs = columns.shape
    chunks = columns.reshape(inputs, outputs // CHUNK, 4, 4, 4).swapaxes(2, 3).reshape(inputs, -1, CHUNK)
    if format == "q8":
        return chunks
    return _nibbles(chunks[..., : CHUNK // 2], chunks[..., CHUNK // 2 :])


def _column_scales(scales: Array) -> Array:
    return scales.T


def _rows(codes: Array, format: str) -> Array:  # noqa: A002
    """[output, input]. Of 64 inputs in 4 bits, the first 32 are low nibbles and the last 32 are high nibbles."""
    if format in {"f32", "bf16", "q8"}:
        return codes
    halves = codes.reshape(codes.shape[0], -1, 2, CHUNK // 2)
    return _nibbles(halves[:, :, 0], halves[:, :, 1])


def _low_rows(codes: Array, scales: Array) -> Array:
    """[output, input], then the scales. Of 16 blocks, the first 4 inputs of each, then the next 4: the first 16 in low
    nibbles, the others in high ones. Of blocks left over, as `_rows`.
    """
    rows, whole = len(codes), codes.shape[1] // SPREAD * SPREAD
    spread = codes[:, :whole].reshape(rows, -1, 16, 2, 4, 4).transpose(3, 0, 1, 4, 2, 5)
    rest = _rows(codes[:, whole:], "q4").reshape(rows, -1)
    packed = [_nibbles(spread[0], spread[1]).reshape(rows, -1), rest, _bytes(scales).reshape(rows, -1)]
    joined = np.concatenate(packed, axis=1)
    return _padded(joined, rows, bytes_of_low_row(codes.shape[1]))


def _row_scales(scales: Array) -> Array:
    return scales


_ORDERS: dict[str, tuple[Callable[[Array, str], Array], Callable[[Array], Array]]] = {
    "panels": (_panels, _panel_scales),
    "columns": (_columns, _column_scales),
    "rows": (_rows, _row_scales),
    "planes": (_panels, _panel_scales),
}


def _nibbles(low: Array, high: Array) -> Array:
    return low | (high << np.uint8(4))


def _padded(values: Array, rows: int, columns: int) -> Array:
    return np.pad(values, ((0, rows - values.shape[0]), (0, columns - values.shape[1])))


def _bytes(values: Array) -> Bytes:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
