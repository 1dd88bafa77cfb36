"""Products with some rows of a matrix, from the layout `rows`: a row that is not wanted is not read."""

from typing import Any

from sparseact.engine.kernels.axpy_columns import four_of, prefetch_four, runs_ahead, starts_of
from sparseact.engine.kernels.codes import dot_of, offset_of
from sparseact.engine.quant.arena import CODES, FORMAT, PADDED_INPUTS
from sparseact.engine.quant.dequant import width_of_row
from sparseact.engine.quant.layouts import CACHE_LINE
from sparseact.engine.simd.bytes import (
    load_bytes,
    load_nibbles,
    splat_halves_f16,
    splat_halves_f32,
    splat_halves_i32,
)
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import LANES, fma, load_bf16, load_f32, multiply, splat_f32, to_f32, total
from sparseact.models.formats import BF16, BLOCK, F32, Q4M, Q8


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
    width = width_of_row(form, inputs)
    ahead = runs_ahead(width)
    for k in range(first, last, 4):
        # Four rows at a time share what is made of the inputs; beyond the end, the last row again.
        four = starts_of(four_of(rows, k, last), table[i, CODES], width)
        later = starts_of(four_of(rows, min(k + ahead, last - 1), last), table[i, CODES], width)
        if form == F32:
            sums = _four_f32(arena, inputs, four, later, x)
        elif form == BF16:
            sums = _four_bf16(arena, inputs, four, later, x)
        else:
            sums = _four_blocks(arena, form, inputs, four, later, aq, ascale, asum)
        y[k] = total(sums[0])
        if k + 1 < last:
            y[k + 1] = total(sums[1])
        if k + 2 < last:
            y[k + 2] = total(sums[2])
        if k + 3 < last:
            y[k + 3] = total(sums[3])


@compiled
def _four_f32(arena: Any, inputs: int, four: Any, later: Any, x: Any) -> Any:
    r0, r1, r2, r3 = four
    a = b = c = d = splat_f32(0.0)
    for j in range(0, inputs, LANES):
        v, w = load_f32(x, j), 4 * j
        a = fma(load_f32(arena, r0 + w), v, a)
        b = fma(load_f32(arena, r1 + w), v, b)
        c = fma(load_f32(arena, r2 + w), v, c)
        d = fma(load_f32(arena, r3 + w), v, d)
        prefetch_four(arena, later, w)
    return a, b, c, d


@compiled
def _four_bf16(arena: Any, inputs: int, four: Any, later: Any, x: Any) -> Any:
    r0, r1, r2, r3 = four
    a = b = c = d = splat_f32(0.0)
    for j in range(0, inputs, LANES):
        v, w = load_f32(x, j), 2 * j
        a = fma(load_bf16(arena, r0 + w), v, a)
        b = fma(load_bf16(arena, r1 + w), v, b)
        c = fma(load_bf16(arena, r2 + w), v, c)
        d = fma(load_bf16(arena, r3 + w), v, d)
        if w % CACHE_LINE == 0:
            prefetch_four(arena, later, w)
    return a, b, c, d


@compiled
def _four_blocks(arena: Any, form: int, inputs: int, four: Any, later: Any, aq: Any, ascale: Any, asum: Any) -> Any:
    """Two blocks at a time: one in the first eight lanes, one in the last."""
    codes = inputs if form == Q8 else inputs // 2
    mins = inputs // BLOCK * 2
    r0, r1, r2, r3 = four
    a = b = c = d = splat_f32(0.0)
    # What was added to the stored codes is taken off at the start of the sums; eight lanes share it.
    bias = -offset_of(form) // 8
    for g in range(0, inputs // BLOCK, 2):
        w = g * (BLOCK if form == Q8 else BLOCK // 2)
        s = codes + 2 * g
        v, start = load_bytes(aq, g * BLOCK), splat_halves_i32(bias * asum[g], bias * asum[g + 1])
        scale = splat_halves_f32(ascale, g)
        a = fma(_dot(arena, form, r0 + w, v, start), multiply(splat_halves_f16(arena, r0 + s), scale), a)
        b = fma(_dot(arena, form, r1 + w, v, start), multiply(splat_halves_f16(arena, r1 + s), scale), b)
        c = fma(_dot(arena, form, r2 + w, v, start), multiply(splat_halves_f16(arena, r2 + s), scale), c)
        d = fma(_dot(arena, form, r3 + w, v, start), multiply(splat_halves_f16(arena, r3 + s), scale), d)
        if form == Q4M:
            m = s + mins
            # The minimum counts once for each unit of the inputs' sum; its eight lanes have an eighth each.
            eighth = multiply(scale, splat_f32(0.125))
            weight = multiply(eighth, to_f32(splat_halves_i32(asum[g], asum[g + 1])))
            a = fma(splat_halves_f16(arena, r0 + m), weight, a)
            b = fma(splat_halves_f16(arena, r1 + m), weight, b)
            c = fma(splat_halves_f16(arena, r2 + m), weight, c)
            d = fma(splat_halves_f16(arena, r3 + m), weight, d)
        if w % CACHE_LINE == 0:
            prefetch_four(arena, later, w)
    for w in range(codes, codes + 2 * mins, CACHE_LINE):
        prefetch_four(arena, later, w)
    return a, b, c, d


@compiled
def _dot(arena: Any, form: int, at: int, v: Any, start: Any) -> Any:
    return to_f32(dot_of(form, start, load_bytes(arena, at) if form == Q8 else load_nibbles(arena, at), v))
