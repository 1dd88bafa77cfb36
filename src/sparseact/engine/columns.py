"""Products with some columns of a matrix, from the layout `columns`: what is off is not read.

Quantised weights keep their blocks of 32 along the inputs: the active columns of a block are summed in
int32, four at a time, and the block's scales are applied once to the sums.
"""

from typing import Any

import numpy as np

from sparseact.engine.arena import CODES, FORMAT, MINS, PADDED_OUTPUTS, SCALES
from sparseact.engine.cache import compiled
from sparseact.engine.formats import BF16, BLOCK, CHUNK, F32, Q4, Q4M, Q8
from sparseact.engine.simd import (
    LANES,
    add_i32,
    dot_bytes,
    fma,
    interleave_high_8,
    interleave_high_16,
    interleave_low_8,
    interleave_low_16,
    load_bf16,
    load_bytes,
    load_f16,
    load_f32,
    load_i32,
    load_nibbles,
    multiply,
    prefetch,
    splat_bytes,
    splat_f32,
    splat_i32,
    store_f32,
    store_i32,
    to_f32,
)

LINE = 64
"""Bytes of a cache line."""


@compiled
def axpy_columns(
    arena: Any, table: Any, i: int, active: Any, first: int, last: int, x: Any, aq: Any, ascale: Any, acc: Any, y: Any
) -> None:
    """Add to y the columns of linear `i` of the inputs active[first:last], each times its input.

    Args:
        arena: bytes of all weights.
        table: int64 [linears, FIELDS].
        i: number of the linear, whose layout is `columns`.
        active: int32, numbers of the inputs, ascending.
        first: place in `active` to start at. Threads may share a linear, each with a y of its own.
        last: place in `active` to stop before.
        x: float32 [padded inputs]; read for f32 and bf16.
        aq: int8, x in blocks of 32 (`quantise_input`); read for q8, q4 and q4m, as ascale.
        ascale: float32 [blocks].
        acc: int32 [padded outputs], room to work in: zeros, and zeros again at the end.
        y: float32 [padded outputs]; added to.
    """
    form, rows, codes = table[i, FORMAT], table[i, PADDED_OUTPUTS], table[i, CODES]
    if form == F32:
        _axpy_f32(arena, codes, rows, active, first, last, x, y)
    elif form == BF16:
        _axpy_bf16(arena, codes, rows, active, first, last, x, y)
    else:
        _axpy_blocks(arena, table, i, active, first, last, aq, ascale, acc, y)


@compiled
def _axpy_f32(arena: Any, codes: int, rows: int, active: Any, first: int, last: int, x: Any, y: Any) -> None:
    for at in range(first, last, 4):
        c0, c1, c2, c3 = _four(active, at, last)
        p0, p1, p2, p3 = _four(active, min(at + 4, last - 1), last)
        x0, x1, x2, x3 = _inputs_of(x, active, at, last)
        a, b, c, d = splat_f32(x0), splat_f32(x1), splat_f32(x2), splat_f32(x3)
        for r in range(0, rows, 16):
            w = codes + 4 * r
            value = load_f32(y, r)
            value = fma(load_f32(arena, w + 4 * rows * c0), a, value)
            value = fma(load_f32(arena, w + 4 * rows * c1), b, value)
            value = fma(load_f32(arena, w + 4 * rows * c2), c, value)
            value = fma(load_f32(arena, w + 4 * rows * c3), d, value)
            store_f32(y, r, value)
            _prefetch_four(arena, w + 4 * rows * p0, w + 4 * rows * p1, w + 4 * rows * p2, w + 4 * rows * p3)


@compiled
def _axpy_bf16(arena: Any, codes: int, rows: int, active: Any, first: int, last: int, x: Any, y: Any) -> None:
    for at in range(first, last, 4):
        c0, c1, c2, c3 = _four(active, at, last)
        p0, p1, p2, p3 = _four(active, min(at + 4, last - 1), last)
        x0, x1, x2, x3 = _inputs_of(x, active, at, last)
        a, b, c, d = splat_f32(x0), splat_f32(x1), splat_f32(x2), splat_f32(x3)
        for r in range(0, rows, 16):
            w = codes + 2 * r
            value = load_f32(y, r)
            value = fma(load_bf16(arena, w + 2 * rows * c0), a, value)
            value = fma(load_bf16(arena, w + 2 * rows * c1), b, value)
            value = fma(load_bf16(arena, w + 2 * rows * c2), c, value)
            value = fma(load_bf16(arena, w + 2 * rows * c3), d, value)
            store_f32(y, r, value)
            if r % 32 == 0:
                _prefetch_four(arena, w + 2 * rows * p0, w + 2 * rows * p1, w + 2 * rows * p2, w + 2 * rows * p3)


@compiled
def _axpy_blocks(
    arena: Any, table: Any, i: int, active: Any, first: int, last: int, aq: Any, ascale: Any, acc: Any, y: Any
) -> None:
    form, rows, codes = table[i, FORMAT], table[i, PADDED_OUTPUTS], table[i, CODES]
    width = rows if form == Q8 else rows // 2
    at = first
    while at < last:
        g = active[at] // BLOCK
        stop = at + 1
        while stop < last and active[stop] // BLOCK == g:
            stop += 1
        asum = 0
        while at < stop:
            c0, c1, c2, c3 = _four(active, at, stop)
            p0, p1, p2, p3 = _four(active, min(at + 4, last - 1), last)
            a0, a1, a2, a3 = _inputs_of(aq, active, at, stop)
            asum += a0 + a1 + a2 + a3
            a = splat_bytes(a0, a1, a2, a3)
            c0, c1, c2, c3 = codes + c0 * width, codes + c1 * width, codes + c2 * width, codes + c3 * width
            p0, p1, p2, p3 = codes + p0 * width, codes + p1 * width, codes + p2 * width, codes + p3 * width
            if form == Q8:
                for r in range(0, rows, CHUNK):
                    _dot_four(
                        load_bytes(arena, c0 + r),
                        load_bytes(arena, c1 + r),
                        load_bytes(arena, c2 + r),
                        load_bytes(arena, c3 + r),
                        a,
                        acc,
                        r,
                    )
                    _prefetch_four(arena, p0 + r, p1 + r, p2 + r, p3 + r)
            else:
                for r in range(0, rows, CHUNK):
                    h = r // 2
                    _dot_four(
                        load_nibbles(arena, c0 + h),
                        load_nibbles(arena, c1 + h),
                        load_nibbles(arena, c2 + h),
                        load_nibbles(arena, c3 + h),
                        a,
                        acc,
                        r,
                    )
                    if h % LINE == 0:
                        _prefetch_four(arena, p0 + h, p1 + h, p2 + h, p3 + h)
            at += 4
        at = stop
        bias = splat_i32(-128 * asum if form == Q8 else -8 * asum if form == Q4 else 0)
        scale = splat_f32(ascale[g])
        scales = table[i, SCALES] + 2 * g * rows
        for r in range(0, rows, LANES):
            product = to_f32(add_i32(load_i32(acc, r), bias))
            store_i32(acc, r, splat_i32(0))
            store_f32(y, r, fma(product, multiply(load_f16(arena, scales + 2 * r), scale), load_f32(y, r)))
        if form == Q4M:
            mins = table[i, MINS] + 2 * g * rows
            weight = splat_f32(ascale[g] * asum)
            for r in range(0, rows, LANES):
                store_f32(y, r, fma(load_f16(arena, mins + 2 * r), weight, load_f32(y, r)))


@compiled
def _dot_four(w0: Any, w1: Any, w2: Any, w3: Any, a: Any, acc: Any, r: int) -> None:
    """Add to the sums of 64 rows the products of four columns: their bytes are interleaved by fours."""
    low01, high01 = interleave_low_8(w0, w1), interleave_high_8(w0, w1)
    low23, high23 = interleave_low_8(w2, w3), interleave_high_8(w2, w3)
    store_i32(acc, r, dot_bytes(load_i32(acc, r), interleave_low_16(low01, low23), a))
    store_i32(acc, r + 16, dot_bytes(load_i32(acc, r + 16), interleave_high_16(low01, low23), a))
    store_i32(acc, r + 32, dot_bytes(load_i32(acc, r + 32), interleave_low_16(high01, high23), a))
    store_i32(acc, r + 48, dot_bytes(load_i32(acc, r + 48), interleave_high_16(high01, high23), a))


@compiled
def _four(active: Any, at: int, stop: int) -> tuple[int, int, int, int]:
    """The four inputs from place `at` on; the last one over and over beyond the end."""
    end = stop - 1
    return (
        np.int64(active[min(at, end)]),
        np.int64(active[min(at + 1, end)]),
        np.int64(active[min(at + 2, end)]),
        np.int64(active[min(at + 3, end)]),
    )


@compiled
def _inputs_of(x: Any, active: Any, at: int, stop: int) -> tuple[Any, Any, Any, Any]:
    """The values of the four inputs from place `at` on; zeros beyond the end."""
    zero = x[0] * 0
    return (
        x[active[at]],
        x[active[at + 1]] if at + 1 < stop else zero,
        x[active[at + 2]] if at + 2 < stop else zero,
        x[active[at + 3]] if at + 3 < stop else zero,
    )


@compiled
def _prefetch_four(arena: Any, p0: int, p1: int, p2: int, p3: int) -> None:
    prefetch(arena, p0)
    prefetch(arena, p1)
    prefetch(arena, p2)
    prefetch(arena, p3)
