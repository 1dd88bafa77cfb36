"""Products with some rows of a matrix, from the layout `rows`: a row that is not wanted is not read."""

from typing import Any

import numpy as np

from sparseact.engine.arena import CODES, FORMAT, MINS, PADDED_INPUTS, SCALES
from sparseact.engine.cache import compiled
from sparseact.engine.formats import BF16, BLOCK, F32, Q4, Q4M, Q8
from sparseact.engine.simd import (
    dot_bytes,
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
AHEAD = 8
"""Rows between the one that is read and the one that is asked for."""


@compiled
def dot_rows(
    arena: Any, table: Any, i: int, rows: Any, first: int, last: int, x: Any, aq: Any, ascale: Any, asum: Any, y: Any
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
    width = inputs * 4 if form == F32 else inputs * 2 if form == BF16 else inputs if form == Q8 else inputs // 2
    for k in range(first, last, 4):
        # Four rows at a time share what is made of the inputs; beyond the end, the last row again.
        four = np.int64(rows[k]), _row(rows, k + 1, last), _row(rows, k + 2, last), _row(rows, k + 3, last)
        for later in range(k + AHEAD, min(k + AHEAD + 4, last)):
            start = table[i, CODES] + np.int64(rows[later]) * width
            for line in range(start, start + width, LINE):
                prefetch(arena, line)
        if form == F32:
            sums = _four_f32(arena, table[i, CODES], width, four, x)
        elif form == BF16:
            sums = _four_bf16(arena, table[i, CODES], width, four, x)
        else:
            sums = _four_blocks(arena, table, i, width, four, aq, ascale, asum)
        y[k] = total(sums[0])
        if k + 1 < last:
            y[k + 1] = total(sums[1])
        if k + 2 < last:
            y[k + 2] = total(sums[2])
        if k + 3 < last:
            y[k + 3] = total(sums[3])


@compiled
def _row(rows: Any, k: int, last: int) -> Any:
    return np.int64(rows[min(k, last - 1)])


@compiled
def _four_f32(arena: Any, codes: int, width: int, four: Any, x: Any) -> Any:
    r0, r1, r2, r3 = four
    a = b = c = d = splat_f32(0.0)
    for w in range(codes, codes + width, LINE):
        v = load_f32(x, (w - codes) // 4)
        a = fma(load_f32(arena, w + r0 * width), v, a)
        b = fma(load_f32(arena, w + r1 * width), v, b)
        c = fma(load_f32(arena, w + r2 * width), v, c)
        d = fma(load_f32(arena, w + r3 * width), v, d)
    return a, b, c, d


@compiled
def _four_bf16(arena: Any, codes: int, width: int, four: Any, x: Any) -> Any:
    r0, r1, r2, r3 = four
    a = b = c = d = splat_f32(0.0)
    for w in range(codes, codes + width, LINE // 2):
        v = load_f32(x, (w - codes) // 2)
        a = fma(load_bf16(arena, w + r0 * width), v, a)
        b = fma(load_bf16(arena, w + r1 * width), v, b)
        c = fma(load_bf16(arena, w + r2 * width), v, c)
        d = fma(load_bf16(arena, w + r3 * width), v, d)
    return a, b, c, d


@compiled
def _four_blocks(arena: Any, table: Any, i: int, width: int, four: Any, aq: Any, ascale: Any, asum: Any) -> Any:
    """Two blocks at a time: one in the first eight lanes, one in the last."""
    form, blocks = table[i, FORMAT], table[i, PADDED_INPUTS] // BLOCK
    r0, r1, r2, r3 = four
    a = b = c = d = splat_f32(0.0)
    # What was added to the stored codes is taken off at the start of the sums; eight lanes share it.
    bias = -16 if form == Q8 else -1 if form == Q4 else 0
    for g in range(0, blocks, 2):
        w = table[i, CODES] + g * (BLOCK if form == Q8 else BLOCK // 2)
        s = table[i, SCALES] + 2 * g
        v, start = load_bytes(aq, g * BLOCK), splat_halves_i32(bias * asum[g], bias * asum[g + 1])
        scale = splat_halves_f32(ascale, g)
        a = fma(_dot(arena, form, w + r0 * width, v, start), _scale(arena, s + 2 * r0 * blocks, scale), a)
        b = fma(_dot(arena, form, w + r1 * width, v, start), _scale(arena, s + 2 * r1 * blocks, scale), b)
        c = fma(_dot(arena, form, w + r2 * width, v, start), _scale(arena, s + 2 * r2 * blocks, scale), c)
        d = fma(_dot(arena, form, w + r3 * width, v, start), _scale(arena, s + 2 * r3 * blocks, scale), d)
        if form == Q4M:
            m = table[i, MINS] + 2 * g
            # An eighth of the block's sum in each of its eight lanes.
            weight = splat_f32(0.125)
            weight = multiply(multiply(scale, weight), to_f32(splat_halves_i32(asum[g], asum[g + 1])))
            a = fma(splat_halves_f16(arena, m + 2 * r0 * blocks), weight, a)
            b = fma(splat_halves_f16(arena, m + 2 * r1 * blocks), weight, b)
            c = fma(splat_halves_f16(arena, m + 2 * r2 * blocks), weight, c)
            d = fma(splat_halves_f16(arena, m + 2 * r3 * blocks), weight, d)
    return a, b, c, d


@compiled
def _dot(arena: Any, form: int, at: int, v: Any, start: Any) -> Any:
    return to_f32(dot_bytes(start, load_bytes(arena, at) if form == Q8 else load_nibbles(arena, at), v))


@compiled
def _scale(arena: Any, at: int, scale: Any) -> Any:
    return multiply(splat_halves_f16(arena, at), scale)
