"""Products with a matrix in two planes, from the layout `planes`: of all rows by the high plane, of some the rest.

With codes q = 16 high + low in blocks g, of scales s_g and inputs a_g x_g rounded to bytes:

    W x = sum_g s_g a_g (16 high_g x_g) + sum_g s_g a_g (low_g x_g)

The first sum is a stream of 4-bit panels. With low = 7.5, its middle, it is a guess of the whole; the second sum,
of the rows that are wanted, makes it exact. No bit of a code is read twice.
"""

from typing import Any

import numpy as np

from sparseact.engine.quant.arena import CODES, LOW, PADDED_INPUTS, SCALES, STRIDE
from sparseact.engine.quant.layouts import CACHE_LINE, MIDDLE, PANEL, SPREAD
from sparseact.engine.simd.bytes import (
    dot_block,
    dot_nibbles,
    dot_spread,
    load_bytes,
    load_nibbles,
    splat_halves_f16,
    splat_halves_f32,
)
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import (
    LANES,
    fma,
    load_f16,
    load_f32,
    multiply,
    prefetch_far,
    shift_left,
    splat_f32,
    splat_f32_at,
    splat_i32,
    store_f32,
    to_f32,
    total,
)
from sparseact.models.formats import BLOCK

VECTOR = 64
"""Bytes of a load."""
AHEAD = 16
"""Rows between the one that is read and the one that is asked for."""


@compiled
def dot_high(
    arena: Any, table: Any, i: int, first: int, last: int, aq: Any, ascale: Any, asum: Any, high: Any, guess: Any
) -> None:
    """high[j], guess[j] = the products of the high plane's row j with x, and with the low plane at its middle.

    Args:
        arena: bytes of all weights.
        table: int64 [linears, FIELDS].
        i: number of the linear in 4 bits that is the high plane.
        first: first panel.
        last: panel to stop before.
        aq: int8, x in blocks of 32 (`quantise_input`).
        ascale: float32 [blocks].
        asum: int32 [blocks], sums of aq.
        high: float32 [padded outputs]; written from 16 first to 16 last, as the next one.
        guess: float32 [padded outputs].
    """
    blocks = table[i, PADDED_INPUTS] // BLOCK
    for panel in range(first, last):
        at, at_scale = table[i, CODES] + panel * blocks * 4 * VECTOR, table[i, SCALES] + panel * blocks * VECTOR // 2
        value = middle = splat_f32(0.0)
        for g in range(blocks):
            codes = shift_left(dot_block(arena, at, aq, g * BLOCK, splat_i32(-8 * asum[g])), 4)
            scale = multiply(load_f16(arena, at_scale), splat_f32_at(ascale, g))
            value = fma(to_f32(codes), scale, value)
            middle = fma(scale, to_f32(splat_i32(asum[g])), middle)
            at += 4 * VECTOR
            at_scale += VECTOR // 2
        store_f32(high, panel * PANEL, value)
        store_f32(guess, panel * PANEL, fma(middle, splat_f32(MIDDLE), value))


@compiled
def ask_ahead(arena: Any, table: Any, i: int, rows: Any, k: int, end: int) -> None:
    """Ask for all in the stride of row rows[k] of the low plane of linear `i`, if `k` is below `end`."""
    if k < end:
        start, stride = table[i, LOW] + np.int64(rows[k]) * table[i, STRIDE], table[i, STRIDE]
        for line in range(start, start + stride, CACHE_LINE):
            prefetch_far(arena, line)


@compiled
def spread_input(aq: Any, inputs: int, spread: Any) -> None:
    """X in the order of the low plane: of 16 blocks, the first 4 inputs of each, then the next 4; the rest as is."""
    source, target = aq.view(np.int32), spread.view(np.int32)
    whole, words = inputs // SPREAD * (SPREAD // 4), BLOCK // 4
    for word in range(inputs // 4):
        place = word // (SPREAD // 4) * (SPREAD // 4) + word % words * LANES + word // words % LANES
        target[place if word < whole else word] = source[word]


@compiled
def add_low(arena: Any, table: Any, i: int, rows: Any, first: int, last: int, spread: Any, ascale: Any, y: Any) -> None:
    """Add to y[k] the products of the low plane's row rows[first + k] with x.

    Args:
        arena: bytes of all weights.
        table: int64 [linears, FIELDS].
        i: number of the linear, whose layout is `planes`.
        rows: int32, numbers of the rows.
        first: place in `rows` to start at.
        last: place in `rows` to stop before.
        spread: int8, x in blocks of 32 (`quantise_input`) in the order of the plane (`spread_input`).
        ascale: float32 [blocks].
        y: float32; added to.
    """
    inputs = table[i, PADDED_INPUTS]
    whole = inputs // SPREAD * SPREAD
    for k in range(first, last):
        at = table[i, LOW] + np.int64(rows[k]) * table[i, STRIDE]
        s, value = at + inputs // 2, splat_f32(0.0)
        for j in range(0, whole, SPREAD):
            codes = dot_spread(arena, at, spread, j, splat_i32(0))
            scale = multiply(load_f16(arena, s), load_f32(ascale, j // BLOCK))
            value = fma(to_f32(codes), scale, value)
            at += 4 * VECTOR
            s += 2 * LANES
        for j in range(whole, inputs, VECTOR):
            product = to_f32(dot_nibbles(splat_i32(0), load_nibbles(arena, at), load_bytes(spread, j)))
            scale = multiply(splat_halves_f16(arena, s), splat_halves_f32(ascale, j // BLOCK))
            value = fma(product, scale, value)
            at += VECTOR // 2
            s += 4
        y[k - first] += total(value)
