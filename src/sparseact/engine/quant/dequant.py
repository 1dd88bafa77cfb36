"""Rows of a linear as float32, from any layout: a token's embedding, some rows of the head, all of them in tests."""

from typing import Any

import numpy as np

from sparseact.engine.quant.arena import (
    CODES,
    FORMAT,
    INPUTS,
    LAYOUT,
    LOW,
    MINS,
    PADDED_INPUTS,
    PADDED_OUTPUTS,
    SCALES,
    STRIDE,
)
from sparseact.engine.quant.layouts import CHUNK, COLUMNS, PANEL, PANELS, PLANES, ROWS, SPREAD
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import bf16_at, f16_at, f32_at
from sparseact.models.formats import BF16, BLOCK, F32, Q4, Q4M, Q8

HALF = BLOCK // 2
"""Inputs whose places follow one rule: those of a block that are low nibbles, and those that are high."""


@compiled
def read_row(arena: Any, table: Any, i: int, row: int, out: Any) -> None:
    """out[:inputs] = row `row` of linear `i`, of any layout.

    Args:
        arena: bytes of all weights.
        table: int64 [linears, FIELDS].
        i: number of the linear.
        row: which output; below the true number of outputs.
        out: float32 [inputs]; written.
    """
    form, inputs = table[i, FORMAT], table[i, INPUTS]
    codes = table[i, CODES]
    if table[i, LAYOUT] == PLANES:
        _read_planes(arena, table, i, row, out)
        return
    bias = np.float32(128 if form == Q8 else 8 if form == Q4 else 0)
    for j in range(0, inputs, HALF):
        start, unit, step, shift = _places(table, i, row, j)
        scale, least = np.float32(1), np.float32(0)
        if form not in (F32, BF16):
            at_scale, at_min = _places_of_scale(table, i, row, j // BLOCK)
            scale = f16_at(arena, at_scale)
            least = f16_at(arena, at_min) if form == Q4M else least
        for k in range(min(HALF, inputs - j)):
            place = start + k // unit * step + k % unit
            if form == F32:
                out[j + k] = f32_at(arena, codes + 4 * place)
            elif form == BF16:
                out[j + k] = bf16_at(arena, codes + 2 * place)
            else:
                code = arena[codes + place]
                if form != Q8:
                    code = code >> shift & 15
                out[j + k] = (np.float32(code) - bias) * scale + least


@compiled
def _read_planes(arena: Any, table: Any, i: int, row: int, out: Any) -> None:
    """The high plane's codes lie as q4's in `panels`; for the low one see `place_of_low`."""
    panel = table[i, CODES] + row // PANEL * PANEL * table[i, PADDED_INPUTS] // 2 + row % PANEL * 4
    low = table[i, LOW] + row * table[i, STRIDE]
    for j in range(table[i, INPUTS]):
        high_code = (
            arena[panel + j // BLOCK * PANEL * HALF + j % HALF // 4 * 4 * PANEL + j % 4] >> j % BLOCK // HALF * 4
        )
        at, shift = place_of_low(j, table[i, PADDED_INPUTS])
        low_code = arena[low + at] >> shift
        scale = f16_at(arena, _places_of_scale(table, i, row, j // BLOCK)[0])
        out[j] = (np.float32((high_code & 15) * 16 + (low_code & 15)) - np.float32(128)) * scale


@compiled
def place_of_low(j: int, inputs: int) -> tuple[int, int]:
    """Byte and shift of input j in a row of the low plane."""
    if j < inputs // SPREAD * SPREAD:
        word = j % BLOCK // 4
        return j // SPREAD * SPREAD // 2 + word % 4 * CHUNK + j % SPREAD // BLOCK * 4 + j % 4, word // 4 * 4
    return j // CHUNK * BLOCK + j % BLOCK, j % CHUNK // BLOCK * 4


@compiled
def read_rows(arena: Any, table: Any, i: int, rows: Any, out: Any) -> None:
    """out[:, :inputs] = some rows of linear `i`, by their numbers, of any layout; out float32."""
    for k in range(len(rows)):
        read_row(arena, table, i, rows[k], out[k])


@compiled
def _places(table: Any, i: int, row: int, j: int) -> tuple[int, int, int, int]:
    """Where the codes of a row's inputs j..j+15 lie: input j + k at start + k // unit * step + k % unit.

    Places count codes, of 4 bits counted by bytes; the last number is how far such a code is shifted
    in its byte. This is `layouts.pack` read backwards.
    """
    form, layout = table[i, FORMAT], table[i, LAYOUT]
    inputs = table[i, PADDED_INPUTS]
    nibbles = form in (Q4, Q4M)
    if layout == PANELS:
        unit = 1 if form == F32 else 2 if form == BF16 else 4
        panel, lane = row // PANEL * PANEL * inputs, row % PANEL * unit
        if nibbles:
            return panel // 2 + j // BLOCK * PANEL * HALF + lane, unit, PANEL * unit, j % BLOCK // HALF * 4
        return panel + j * PANEL + lane, unit, PANEL * unit, 0
    if layout == COLUMNS:
        within, step = row % CHUNK, table[i, STRIDE] // (4 if form == F32 else 2 if form == BF16 else 1)
        if form not in (F32, BF16):
            within = within % 16 // 4 * 16 + within // 16 * 4 + within % 4
        if nibbles:
            half = CHUNK // 2
            return j * step + row // CHUNK * half + within % half, 1, step, within // half * 4
        return j * step + row // CHUNK * CHUNK + within, 1, step, 0
    if nibbles:
        return row * width_of_row(form, inputs) + j // CHUNK * BLOCK + j % BLOCK, 1, 1, j % CHUNK // BLOCK * 4
    return row * (width_of_row(form, inputs) if form == Q8 else inputs) + j, 1, 1, 0


@compiled
def _places_of_scale(table: Any, i: int, row: int, g: int) -> tuple[int, int]:
    """Where the scale and the minimum of a row's block g lie in the arena."""
    layout, blocks = table[i, LAYOUT], table[i, PADDED_INPUTS] // BLOCK
    if layout == ROWS:
        form = table[i, FORMAT]
        start = table[i, CODES] + row * width_of_row(form, blocks * BLOCK)
        scale = start + blocks * (BLOCK if form == Q8 else BLOCK // 2) + 2 * g
        return scale, scale + 2 * blocks
    in_panel = (row // PANEL * blocks + g) * PANEL + row % PANEL
    at = in_panel if layout in (PANELS, PLANES) else g * table[i, PADDED_OUTPUTS] + row
    return table[i, SCALES] + 2 * at, table[i, MINS] + 2 * at


@compiled
def width_of_row(form: int, inputs: int) -> int:
    """Bytes from one row to the next in the layout `rows`: its codes, scales and minimums."""
    if form == F32:
        return inputs * 4
    if form == BF16:
        return inputs * 2
    scales = inputs // BLOCK * 2
    return inputs + scales if form == Q8 else inputs // 2 + scales if form == Q4 else inputs // 2 + 2 * scales
