"""Products with a matrix in two planes, from the layout `planes`: of all rows what the high plane says, of some the rest.

With codes q = 16 high + low in blocks g, of scales s_g and inputs a_g x_g rounded to bytes:

    W x = sum_g s_g a_g (16 high_g x_g) + sum_g s_g a_g (low_g x_g)

The first sum is a stream of 4-bit panels. With low = 7.5, its middle, it is a guess of the whole; the second sum, of the
rows that are wanted, makes it exact. No bit is read twice.
"""

from typing import Any

import numpy as np

from sparseact.engine.quant.arena import CODES, LOW, PADDED_INPUTS, SCALES, STRIDE
from sparseact.engine.quant.layouts import MIDDLE, PANEL
from sparseact.engine.simd.bytes import (
    dot_bytes,
    load_bytes,
    load_nibbles,
    low_nibbles,
    splat_4_bytes,
    splat_halves_f32,
    splat_two_f16,
    upper_nibbles,
)
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import (
    add_i32,
    fma,
    load_f16,
    multiply,
    prefetch,
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
LINE = 64
"""Bytes of a cache line."""
AHEAD = 8
"""Rows between the one that is read and the one that is asked for."""


@compiled
def dot_high(
    arena: Any, table: Any, i: int, first: int, last: int, aq: Any, ascale: Any, asum: Any, high: Any, guess: Any
) -> None:
    """high[j], guess[j] = the products of the high plane's row j with x, and with the low plane at its middle.

    Args:
        arena: bytes of all weights.
        table: int64 [linears, FIELDS].
        i: number of the linear, whose layout is `planes`.
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
            # The low nibbles are the first 16 inputs, the high ones, left where they are, 16 times the last 16.
            a, b = splat_i32(0), splat_i32(-128 * asum[g])
            for v in range(4):
                w = load_bytes(arena, at + v * VECTOR)
                a = dot_bytes(a, low_nibbles(w), splat_4_bytes(aq, g * BLOCK + 4 * v))
                b = dot_bytes(b, upper_nibbles(w), splat_4_bytes(aq, g * BLOCK + 16 + 4 * v))
            scale = multiply(load_f16(arena, at_scale), splat_f32_at(ascale, g))
            value = fma(to_f32(add_i32(shift_left(a, 4), b)), scale, value)
            middle = fma(scale, to_f32(splat_i32(asum[g])), middle)
            at += 4 * VECTOR
            at_scale += VECTOR // 2
        store_f32(high, panel * PANEL, value)
        store_f32(guess, panel * PANEL, fma(middle, splat_f32(MIDDLE), value))


@compiled
def add_low(
    arena: Any,
    table: Any,
    one: int,
    other: int,
    rows: Any,
    first: int,
    last: int,
    end: int,
    aq: Any,
    ascale: Any,
    y: Any,
    z: Any,
) -> None:
    """Add to y[k], z[k] the products of the low planes' row rows[first + k] of two linears with the same x.

    Args:
        arena: bytes of all weights.
        table: int64 [linears, FIELDS].
        one: number of the first linear, whose layout is `planes`.
        other: of the second one, of the same sizes, whose row lies behind the first one's.
        rows: int32, numbers of the rows.
        first: place in `rows` to start at.
        last: place in `rows` to stop before.
        end: place in `rows` up to which rows are asked for ahead, with all that lies in their stride.
        aq: int8, x in blocks of 32 (`quantise_input`), padded to 64.
        ascale: float32 [blocks].
        y: float32; added to, as the next one.
        z: float32.
    """
    blocks, stride = table[one, PADDED_INPUTS] // BLOCK, table[one, STRIDE]
    low, further = table[one, LOW], table[other, LOW] - table[one, LOW]
    for k in range(first, last):
        row = np.int64(rows[k])
        place = row // PANEL * blocks * VECTOR // 2 + row % PANEL * 2
        s, t = table[one, SCALES] + place, table[other, SCALES] + place
        at, later = low + row * stride, low + np.int64(rows[min(k + AHEAD, end - 1)]) * stride
        a = b = splat_f32(0.0)
        for g in range(0, blocks, 2):
            x, scale = load_bytes(aq, g * BLOCK), splat_halves_f32(ascale, g)
            products = to_f32(dot_bytes(splat_i32(0), load_nibbles(arena, at), x))
            a = fma(products, multiply(splat_two_f16(arena, s, s + VECTOR // 2), scale), a)
            products = to_f32(dot_bytes(splat_i32(0), load_nibbles(arena, at + further), x))
            b = fma(products, multiply(splat_two_f16(arena, t, t + VECTOR // 2), scale), b)
            at += BLOCK
            s += VECTOR
            t += VECTOR
        for line in range(later, later + stride, LINE):
            prefetch(arena, line)
        y[k - first] += total(a)
        z[k - first] += total(b)
