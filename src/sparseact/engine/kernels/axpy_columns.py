"""Products with some columns of a matrix, from the layout `columns`: what is off is not read.

Quantised weights keep their blocks of 32 along the inputs: the active columns of a block are summed in
int32, four at a time, and the block's scales are applied once to the sums. Those of a head: see long_columns.py.
"""

from typing import Any

import numpy as np

from sparseact.engine.kernels.codes import dot_of, offset_of
from sparseact.engine.quant.arena import CODES, FORMAT, MINS, PADDED_OUTPUTS, SCALES, STRIDE
from sparseact.engine.quant.layouts import CACHE_LINE, CHUNK
from sparseact.engine.quant.repack import by_fours
from sparseact.engine.simd.bytes import (
    load_bytes,
    load_nibbles,
    splat_4_bytes,
    splat_bytes,
)
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import (
    LANES,
    add_i32,
    fma,
    i64_at,
    load_bf16,
    load_f16,
    load_f32,
    load_i32,
    multiply,
    prefetch,
    splat_f32,
    splat_i32,
    store_f32,
    store_i32,
    to_f32,
)
from sparseact.models.formats import BF16, BLOCK, F32, Q4, Q4M, Q8


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
        acc: int32 [padded outputs], scratch: zeros, and zeros again at the end.
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
    ahead = runs_ahead(4 * rows)
    for at in range(first, last, 4):
        c0, c1, c2, c3 = starts_of(four_of(active, at, last), codes, 4 * rows)
        soon = starts_of(four_of(active, min(at + ahead, last - 1), last), codes, 4 * rows)
        x0, x1, x2, x3 = four_inputs(x, active, at, last)
        for r in range(0, rows, LANES):
            w = 4 * r
            value = fma(load_f32(arena, c0 + w), splat_f32(x0), load_f32(y, r))
            value = fma(load_f32(arena, c1 + w), splat_f32(x1), value)
            value = fma(load_f32(arena, c2 + w), splat_f32(x2), value)
            value = fma(load_f32(arena, c3 + w), splat_f32(x3), value)
            store_f32(y, r, value)
            prefetch_four(arena, soon, w)


@compiled
def _axpy_bf16(arena: Any, codes: int, rows: int, active: Any, first: int, last: int, x: Any, y: Any) -> None:
    ahead = runs_ahead(2 * rows)
    for at in range(first, last, 4):
        c0, c1, c2, c3 = starts_of(four_of(active, at, last), codes, 2 * rows)
        soon = starts_of(four_of(active, min(at + ahead, last - 1), last), codes, 2 * rows)
        x0, x1, x2, x3 = four_inputs(x, active, at, last)
        for r in range(0, rows, LANES):
            w = 2 * r
            value = fma(load_bf16(arena, c0 + w), splat_f32(x0), load_f32(y, r))
            value = fma(load_bf16(arena, c1 + w), splat_f32(x1), value)
            value = fma(load_bf16(arena, c2 + w), splat_f32(x2), value)
            value = fma(load_bf16(arena, c3 + w), splat_f32(x3), value)
            store_f32(y, r, value)
            if w % CACHE_LINE == 0:
                prefetch_four(arena, soon, w)


@compiled
def _axpy_blocks(
    arena: Any, table: Any, i: int, active: Any, first: int, last: int, aq: Any, ascale: Any, acc: Any, y: Any
) -> None:
    form, rows = table[i, FORMAT], table[i, PADDED_OUTPUTS]
    ahead = runs_ahead(rows if form == Q8 else rows // 2)
    at = first
    while at < last:
        g = active[at] // BLOCK
        _prefetch_scales(arena, table, i, g)
        stop = at + 1
        while stop < last and active[stop] // BLOCK == g:
            stop += 1
        asum = 0
        for k in range(at, stop, 4):
            columns, later = four_of(active, k, stop), four_of(active, min(k + ahead, last - 1), last)
            inputs = four_inputs(aq, active, k, stop)
            asum += inputs[0] + inputs[1] + inputs[2] + inputs[3]
            if form == Q8:
                _add_four_q8(arena, table[i, CODES], table[i, STRIDE], rows, columns, later, inputs, acc)
            else:
                _add_four_q4(arena, table[i, CODES], rows, columns, later, inputs, acc)
        _finish_block(arena, table, i, g, asum, ascale[g], acc, y)
        at = stop


@compiled
def axpy_block(
    arena: Any,
    table: Any,
    i: int,
    active: Any,
    first: int,
    last: int,
    aq: Any,
    ascale: Any,
    starts: Any,
    fours: Any,
    y: Any,
) -> None:
    """As `axpy_columns` for inputs of one block of linear `i` in q8, whose columns were asked for: sums in registers.

    Args:
        starts: int64 [32], scratch, as the next one.
        fours: int8 [32].
    """
    codes, width, rows, g = table[i, CODES], table[i, STRIDE], table[i, PADDED_OUTPUTS], active[first] // BLOCK
    scales = table[i, SCALES] + 2 * g * rows
    # By fours, the last column over and over with inputs of 0: where columns begin, then their inputs.
    count, asum = (last - first + 3) // 4 * 4, 0
    for k in range(count):
        j = active[min(first + k, last - 1)]
        starts[k] = codes + np.int64(j) * width
        fours[k] = aq[j] if first + k < last else 0
        asum += fours[k]
    for r in range(0, rows, CHUNK):
        a = b = c = d = splat_i32(-offset_of(Q8) * asum)
        for k in range(0, count, 4):
            v = by_fours(
                load_bytes(arena, i64_at(starts, k) + r),
                load_bytes(arena, i64_at(starts, k + 1) + r),
                load_bytes(arena, i64_at(starts, k + 2) + r),
                load_bytes(arena, i64_at(starts, k + 3) + r),
            )
            x = splat_4_bytes(fours, k)
            a, b = dot_of(Q8, a, v[0], x), dot_of(Q8, b, v[1], x)
            c, d = dot_of(Q8, c, v[2], x), dot_of(Q8, d, v[3], x)
        _add_scaled(arena, scales + 2 * r, ascale[g], a, y, r)
        _add_scaled(arena, scales + 2 * r + 2 * LANES, ascale[g], b, y, r + LANES)
        _add_scaled(arena, scales + 2 * r + 4 * LANES, ascale[g], c, y, r + 2 * LANES)
        _add_scaled(arena, scales + 2 * r + 6 * LANES, ascale[g], d, y, r + 3 * LANES)


@compiled
def _add_scaled(arena: Any, at_scale: int, ascale: Any, sums: Any, y: Any, r: int) -> None:
    scale = multiply(load_f16(arena, at_scale), splat_f32(ascale))
    store_f32(y, r, fma(to_f32(sums), scale, load_f32(y, r)))


@compiled
def _add_four_q8(
    arena: Any, codes: int, width: int, rows: int, columns: Any, later: Any, inputs: Any, acc: Any
) -> None:
    """Add four columns, times their inputs, to the sums, and ask for the four that come later."""
    c0, c1, c2, c3 = starts_of(columns, codes, width)
    soon = starts_of(later, codes, width)
    a = splat_bytes(inputs[0], inputs[1], inputs[2], inputs[3])
    for r in range(0, rows, CHUNK):
        w0, w1 = load_bytes(arena, c0 + r), load_bytes(arena, c1 + r)
        w2, w3 = load_bytes(arena, c2 + r), load_bytes(arena, c3 + r)
        _dot_four(Q8, w0, w1, w2, w3, a, acc, r)
        prefetch_four(arena, soon, r)


@compiled
def _add_four_q4(arena: Any, codes: int, rows: int, columns: Any, later: Any, inputs: Any, acc: Any) -> None:
    """As for q8; 32 bytes of a column are 64 rows."""
    c0, c1, c2, c3 = starts_of(columns, codes, rows // 2)
    soon = starts_of(later, codes, rows // 2)
    a = splat_bytes(inputs[0], inputs[1], inputs[2], inputs[3])
    for r in range(0, rows, CHUNK):
        h = r // 2
        w0, w1 = load_nibbles(arena, c0 + h), load_nibbles(arena, c1 + h)
        w2, w3 = load_nibbles(arena, c2 + h), load_nibbles(arena, c3 + h)
        _dot_four(Q4, w0, w1, w2, w3, a, acc, r)
        if h % CACHE_LINE == 0:
            prefetch_four(arena, soon, h)


@compiled
def _finish_block(arena: Any, table: Any, i: int, g: int, asum: int, ascale: Any, acc: Any, y: Any) -> None:
    """Add the sums of block g to y, times the scales, and put zeros in their place."""
    form, rows = table[i, FORMAT], table[i, PADDED_OUTPUTS]
    scales, mins = table[i, SCALES] + 2 * g * rows, table[i, MINS] + 2 * g * rows
    # Codes are stored with a constant added; what it adds to a sum is taken off.
    bias = splat_i32(-offset_of(form) * asum)
    scale, weight = splat_f32(ascale), splat_f32(ascale * asum)
    for r in range(0, rows, LANES):
        product = to_f32(add_i32(load_i32(acc, r), bias))
        store_i32(acc, r, splat_i32(0))
        value = fma(product, multiply(load_f16(arena, scales + 2 * r), scale), load_f32(y, r))
        if form == Q4M:
            value = fma(load_f16(arena, mins + 2 * r), weight, value)
        store_f32(y, r, value)


@compiled
def _prefetch_scales(arena: Any, table: Any, i: int, g: int) -> None:
    """Ask for the scales of block g: they are wanted when its columns have been read."""
    rows = table[i, PADDED_OUTPUTS]
    for r in range(0, 2 * rows, CACHE_LINE):
        prefetch(arena, table[i, SCALES] + 2 * g * rows + r)
        if table[i, FORMAT] == Q4M:
            prefetch(arena, table[i, MINS] + 2 * g * rows + r)


@compiled
def _dot_four(form: int, w0: Any, w1: Any, w2: Any, w3: Any, a: Any, acc: Any, r: int) -> None:
    """Add to the sums of 64 rows the products of four columns: their bytes are interleaved by fours."""
    v = by_fours(w0, w1, w2, w3)
    store_i32(acc, r, dot_of(form, load_i32(acc, r), v[0], a))
    store_i32(acc, r + 16, dot_of(form, load_i32(acc, r + 16), v[1], a))
    store_i32(acc, r + 32, dot_of(form, load_i32(acc, r + 32), v[2], a))
    store_i32(acc, r + 48, dot_of(form, load_i32(acc, r + 48), v[3], a))


@compiled
def runs_ahead(width: int) -> int:
    """How many runs ahead to ask for one: about 8 KiB, which come in the time that memory takes to answer."""
    return min(max(8192 // width // 4 * 4, 4), 24)


@compiled
def starts_of(columns: Any, codes: int, width: int) -> tuple[int, int, int, int]:
    """Where columns start in the arena."""
    c0, c1, c2, c3 = columns
    return codes + c0 * width, codes + c1 * width, codes + c2 * width, codes + c3 * width


@compiled
def four_of(active: Any, at: int, stop: int) -> tuple[Any, Any, Any, Any]:
    """The four inputs from place `at` on; the last one over and over beyond the end."""
    end = stop - 1
    return (
        np.int64(active[min(at, end)]),
        np.int64(active[min(at + 1, end)]),
        np.int64(active[min(at + 2, end)]),
        np.int64(active[min(at + 3, end)]),
    )


@compiled
def four_inputs(x: Any, active: Any, at: int, stop: int) -> tuple[Any, Any, Any, Any]:
    """The values of the four inputs from place `at` on; zeros beyond the end."""
    zero = x[0] * 0
    return (
        x[active[at]] if at < stop else zero,
        x[active[at + 1]] if at + 1 < stop else zero,
        x[active[at + 2]] if at + 2 < stop else zero,
        x[active[at + 3]] if at + 3 < stop else zero,
    )


@compiled
def prefetch_four(arena: Any, starts: Any, offset: int) -> None:
    """Ask for a cache line of each of four runs."""
    prefetch(arena, starts[0] + offset)
    prefetch(arena, starts[1] + offset)
    prefetch(arena, starts[2] + offset)
    prefetch(arena, starts[3] + offset)
