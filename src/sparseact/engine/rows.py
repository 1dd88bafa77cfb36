"""Products with some rows of a matrix, from the layout `rows`: a row that is not wanted is not read."""

from typing import Any

import numpy as np

from sparseact.engine.arena import CODES, FORMAT, MINS, PADDED_INPUTS, SCALES
from sparseact.engine.cache import compiled
from sparseact.engine.formats import BF16, BLOCK, CHUNK, F32, Q4, Q4M, Q8
from sparseact.engine.simd import (
    add,
    dot_bytes,
    f16_at,
    fma,
    load_bf16,
    load_bytes,
    load_f32,
    load_nibbles,
    multiply,
    prefetch,
    splat_f32,
    splat_halves_f16,
    splat_halves_f32,
    splat_halves_i32,
    to_f32,
    total,
)

LINE = 64
"""Bytes of a cache line."""
AHEAD = 4
"""Rows between the one that is read and the one that is asked for."""


@compiled
def dot_rows(
    arena: Any,
    table: Any,
    i: int,
    rows: Any,
    first: int,
    last: int,
    x: Any,
    aq: Any,
    ascale: Any,
    asum: Any,
    y: Any,
) -> None:
    """y[k] = the product of row rows[k] of linear `i` with x, for k in first..last, without its bias.

    Args:
        arena: bytes of all weights.
        table: int64 [linears, FIELDS].
        i: number of the linear, whose layout is `rows`.
        rows: int32, numbers of the rows.
        first: place in `rows` to start at.
        last: place in `rows` to stop before.
        x: float32 [inputs padded to 64], zero beyond the inputs; read for f32 and bf16.
        aq: int8, x in blocks of 32 (`quantise_input`); read for q8, q4 and q4m, as the next two.
        ascale: float32 [blocks of 32, an even number].
        asum: int32 [blocks], sums of aq.
        y: float32, as long as `rows`.
    """
    form, inputs = table[i, FORMAT], table[i, PADDED_INPUTS]
    codes, scales, mins = table[i, CODES], table[i, SCALES], table[i, MINS]
    width = inputs * 4 if form == F32 else inputs * 2 if form == BF16 else inputs if form == Q8 else inputs // 2
    width_of_scales = 2 * inputs // BLOCK
    for k in range(first, last):
        row = np.int64(rows[k])
        at, at_scale = codes + row * width, scales + row * width_of_scales
        ahead = codes + np.int64(rows[min(k + AHEAD, last - 1)]) * width
        for line in range(ahead, ahead + width, LINE):
            prefetch(arena, line)
        if form == F32:
            y[k] = _row_f32(arena, at, inputs, x)
        elif form == BF16:
            y[k] = _row_bf16(arena, at, inputs, x)
        else:
            y[k] = _row_blocks(arena, form, at, at_scale, inputs, aq, ascale, asum)
        if form == Q4M:
            y[k] += _minimums(arena, mins + row * width_of_scales, inputs // BLOCK, ascale, asum)


@compiled
def _row_f32(arena: Any, at: int, inputs: int, x: Any) -> Any:
    a = b = c = d = splat_f32(0.0)
    for j in range(0, inputs, CHUNK):
        w = at + 4 * j
        a = fma(load_f32(arena, w), load_f32(x, j), a)
        b = fma(load_f32(arena, w + 64), load_f32(x, j + 16), b)
        c = fma(load_f32(arena, w + 128), load_f32(x, j + 32), c)
        d = fma(load_f32(arena, w + 192), load_f32(x, j + 48), d)
    return total(add(add(a, b), add(c, d)))


@compiled
def _row_bf16(arena: Any, at: int, inputs: int, x: Any) -> Any:
    a = b = c = d = splat_f32(0.0)
    for j in range(0, inputs, CHUNK):
        w = at + 2 * j
        a = fma(load_bf16(arena, w), load_f32(x, j), a)
        b = fma(load_bf16(arena, w + 32), load_f32(x, j + 16), b)
        c = fma(load_bf16(arena, w + 64), load_f32(x, j + 32), c)
        d = fma(load_bf16(arena, w + 96), load_f32(x, j + 48), d)
    return total(add(add(a, b), add(c, d)))


@compiled
def _row_blocks(arena: Any, form: int, at: int, at_scale: int, inputs: int, aq: Any, ascale: Any, asum: Any) -> Any:
    """Two blocks at a time: one in the first eight lanes, one in the last."""
    value = splat_f32(0.0)
    # What was added to the stored codes is taken off at the start of the sums; eight lanes share it.
    bias = -16 if form == Q8 else -1 if form == Q4 else 0
    for g in range(0, inputs // BLOCK, 2):
        j = g * BLOCK
        start = splat_halves_i32(bias * asum[g], bias * asum[g + 1])
        w = load_bytes(arena, at + j) if form == Q8 else load_nibbles(arena, at + j // 2)
        scale = multiply(splat_halves_f16(arena, at_scale + 2 * g), splat_halves_f32(ascale, g))
        value = fma(to_f32(dot_bytes(start, w, load_bytes(aq, j))), scale, value)
    return total(value)


@compiled
def _minimums(arena: Any, at: int, blocks: int, ascale: Any, asum: Any) -> Any:
    value = np.float32(0)
    for g in range(blocks):
        value += f16_at(arena, at + 2 * g) * (ascale[g] * asum[g])
    return value
