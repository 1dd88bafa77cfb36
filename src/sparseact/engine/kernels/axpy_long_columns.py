"""Products with some columns of a matrix whose columns are long, as those of a head are.

Eight columns at a time, from the first row to the last: that many streams a processor fetches ahead by itself, where of
more columns, or of pieces of them, it loses track. Sums are in registers.
"""

from typing import Any

from sparseact.engine.kernels.axpy_columns import four_inputs, four_of, starts_of
from sparseact.engine.kernels.codes import dot_of, offset_of
from sparseact.engine.quant.arena import CODES, FORMAT, MINS, PADDED_OUTPUTS, SCALES
from sparseact.engine.quant.layouts import CHUNK
from sparseact.engine.quant.repack import by_fours
from sparseact.engine.simd.bytes import load_bytes, load_nibbles, splat_bytes
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import (
    LANES,
    fma,
    load_bf16,
    load_f16,
    load_f32,
    multiply,
    splat_f32,
    splat_i32,
    store_f32,
    to_f32,
)
from sparseact.models.formats import BF16, BLOCK, F32, Q4M, Q8

STREAMS = 8
"""Columns that are read at once."""


@compiled
def axpy_long_columns(
    arena: Any, table: Any, i: int, active: Any, count: int, first: int, last: int, x: Any, aq: Any, ascale: Any, y: Any
) -> None:
    """Add to y[first:last] the columns of linear `i` of the inputs active[:count], each times its input.

    Args:
        arena: bytes of all weights.
        table: int64 [linears, FIELDS].
        i: number of the linear, whose layout is `columns`.
        active: int32, numbers of the inputs, ascending.
        count: how many.
        first: row to start at, a multiple of 64. Threads may share a linear by rows.
        last: row to stop before, a multiple of 64.
        x: float32 [padded inputs]; read for f32 and bf16.
        aq: int8, x in blocks of 32 (`quantise_input`); read for q8, q4 and q4m, as ascale.
        ascale: float32 [blocks].
        y: float32 [padded outputs]; added to.
    """
    floats = table[i, FORMAT] in (F32, BF16)
    at = 0
    while at < count:
        g, stop = active[at] // BLOCK, at + 1
        while stop < min(at + STREAMS, count) and (floats or active[stop] // BLOCK == g):
            stop += 1
        if floats:
            _add_floats(arena, table, i, active, at, stop, first, last, x, y)
        else:
            _add_codes(arena, table, i, active, at, stop, first, last, aq, ascale[g], y)
        at = stop


@compiled
def _add_floats(
    arena: Any, table: Any, i: int, active: Any, at: int, stop: int, first: int, last: int, x: Any, y: Any
) -> None:
    size = 4 if table[i, FORMAT] == F32 else 2
    codes, width = table[i, CODES], size * table[i, PADDED_OUTPUTS]
    c0, c1, c2, c3 = starts_of(four_of(active, at, stop), codes, width)
    c4, c5, c6, c7 = starts_of(four_of(active, at + 4, stop), codes, width)
    x0, x1, x2, x3 = four_inputs(x, active, at, stop)
    x4, x5, x6, x7 = four_inputs(x, active, at + 4, stop)
    for r in range(first, last, LANES):
        w = size * r
        value = fma(_floats(arena, size, c0 + w), splat_f32(x0), load_f32(y, r))
        value = fma(_floats(arena, size, c1 + w), splat_f32(x1), value)
        value = fma(_floats(arena, size, c2 + w), splat_f32(x2), value)
        value = fma(_floats(arena, size, c3 + w), splat_f32(x3), value)
        value = fma(_floats(arena, size, c4 + w), splat_f32(x4), value)
        value = fma(_floats(arena, size, c5 + w), splat_f32(x5), value)
        value = fma(_floats(arena, size, c6 + w), splat_f32(x6), value)
        value = fma(_floats(arena, size, c7 + w), splat_f32(x7), value)
        store_f32(y, r, value)


@compiled
def _floats(arena: Any, size: int, at: int) -> Any:
    return load_f32(arena, at) if size == 4 else load_bf16(arena, at)


@compiled
def _add_codes(
    arena: Any, table: Any, i: int, active: Any, at: int, stop: int, first: int, last: int, aq: Any, ascale: Any, y: Any
) -> None:
    """Up to eight columns of one block, their sums times the block's scales."""
    form, rows = table[i, FORMAT], table[i, PADDED_OUTPUTS]
    codes, width = table[i, CODES], rows if form == Q8 else rows // 2
    low, high = four_inputs(aq, active, at, stop), four_inputs(aq, active, at + 4, stop)
    columns = starts_of(four_of(active, at, stop), codes, width)
    more = starts_of(four_of(active, at + 4, stop), codes, width)
    a, b = splat_bytes(low[0], low[1], low[2], low[3]), splat_bytes(high[0], high[1], high[2], high[3])
    asum = low[0] + low[1] + low[2] + low[3] + high[0] + high[1] + high[2] + high[3]
    # Codes are stored with a constant added; what it adds to a sum is taken off at its start.
    bias = splat_i32(-offset_of(form) * asum)
    place = 2 * (active[at] // BLOCK) * rows
    scales, mins = table[i, SCALES] + place, table[i, MINS] + place
    scale, weight = splat_f32(ascale), splat_f32(ascale * asum)
    for r in range(first, last, CHUNK):
        v, w = _four_codes(arena, form, columns, r), _four_codes(arena, form, more, r)
        _finish(arena, form, scales, mins, r, dot_of(form, dot_of(form, bias, v[0], a), w[0], b), scale, weight, y)
        _finish(arena, form, scales, mins, r + 16, dot_of(form, dot_of(form, bias, v[1], a), w[1], b), scale, weight, y)
        _finish(arena, form, scales, mins, r + 32, dot_of(form, dot_of(form, bias, v[2], a), w[2], b), scale, weight, y)
        _finish(arena, form, scales, mins, r + 48, dot_of(form, dot_of(form, bias, v[3], a), w[3], b), scale, weight, y)


@compiled
def _finish(arena: Any, form: int, scales: int, mins: int, r: int, sums: Any, scale: Any, weight: Any, y: Any) -> None:
    """Add the sums of 16 rows to y, times the scales."""
    value = fma(to_f32(sums), multiply(load_f16(arena, scales + 2 * r), scale), load_f32(y, r))
    if form == Q4M:
        value = fma(load_f16(arena, mins + 2 * r), weight, value)
    store_f32(y, r, value)


@compiled
def _four_codes(arena: Any, form: int, columns: Any, r: int) -> Any:
    """The codes of 64 rows of four columns, those of a row together."""
    c0, c1, c2, c3 = columns
    if form == Q8:
        return by_fours(
            load_bytes(arena, c0 + r), load_bytes(arena, c1 + r), load_bytes(arena, c2 + r), load_bytes(arena, c3 + r)
        )
    h = r // 2
    return by_fours(
        load_nibbles(arena, c0 + h),
        load_nibbles(arena, c1 + h),
        load_nibbles(arena, c2 + h),
        load_nibbles(arena, c3 + h),
    )
