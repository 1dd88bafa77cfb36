"""Products with every row of a matrix, from the layout `panels`: 16 rows at a time, a lane for each.

A panel is read strictly in order, once, and no sum crosses lanes: the loop does little more than read
memory. There is no prefetch: processors follow such a stream by themselves, and asking slows them.
"""

from typing import Any

from sparseact.engine.quant.arena import CODES, FORMAT, MINS, PADDED_INPUTS, SCALES
from sparseact.engine.quant.layouts import PANEL
from sparseact.engine.simd.bytes import (
    code_offset,
    dot_block,
    dot_codes,
    even_bf16,
    load_bytes,
    odd_bf16,
    splat_4_bytes,
)
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import (
    add,
    add_i32,
    fma,
    load_f16,
    load_f32,
    load_i32,
    multiply,
    splat_f32,
    splat_f32_at,
    splat_i32,
    store_f32,
    to_f32,
)
from sparseact.models.formats import BF16, BLOCK, F32, Q4, Q8

VECTOR = 64
"""Bytes of a load."""


@compiled
def dot_panels(
    arena: Any, table: Any, i: int, first: int, last: int, x: Any, aq: Any, ascale: Any, asum: Any, y: Any
) -> None:
    """y[16 first : 16 last] = W x for the panels first..last of linear `i`, without its bias.

    Args:
        arena: bytes of all weights.
        table: int64 [linears, FIELDS].
        i: number of the linear, whose layout is `panels`.
        first: first panel.
        last: panel to stop before.
        x: float32 [padded inputs], zero beyond the inputs; read for f32 and bf16.
        aq: int8, x in blocks of 32 (`quantise_input`); read for q8, q4 and q4m, as the next two.
        ascale: float32 [blocks].
        asum: int32 [blocks], sums of aq.
        y: float32 [padded outputs].
    """
    inputs = table[i, PADDED_INPUTS]
    blocks = inputs // BLOCK
    form = table[i, FORMAT]
    codes, scales, mins = table[i, CODES], table[i, SCALES], table[i, MINS]
    for panel in range(first, last):
        start = panel * blocks
        if form == F32:
            value = _panel_f32(arena, codes + start * 2048, inputs, x)
        elif form == BF16:
            value = _panel_bf16(arena, codes + start * 1024, inputs, x)
        elif form == Q8:
            value = _panel_q8(arena, codes + start * 512, scales + start * 32, blocks, aq, ascale, asum)
        elif form == Q4:
            value = _panel_q4(arena, codes + start * 256, scales + start * 32, blocks, aq, ascale, asum)
        else:
            value = _panel_q4m(
                arena, codes + start * 256, scales + start * 32, mins + start * 32, blocks, aq, ascale, asum
            )
        store_f32(y, panel * PANEL, value)


@compiled
def _panel_f32(arena: Any, at: int, inputs: int, x: Any) -> Any:
    a = b = c = d = splat_f32(0.0)
    for j in range(0, inputs, 4):
        w = at + j * VECTOR
        a = fma(load_f32(arena, w), splat_f32_at(x, j), a)
        b = fma(load_f32(arena, w + VECTOR), splat_f32_at(x, j + 1), b)
        c = fma(load_f32(arena, w + 2 * VECTOR), splat_f32_at(x, j + 2), c)
        d = fma(load_f32(arena, w + 3 * VECTOR), splat_f32_at(x, j + 3), d)
    return add(add(a, b), add(c, d))


@compiled
def _panel_bf16(arena: Any, at: int, inputs: int, x: Any) -> Any:
    a = b = c = d = splat_f32(0.0)
    for j in range(0, inputs, 4):
        w = load_i32(arena, at + j * VECTOR // 2)
        v = load_i32(arena, at + j * VECTOR // 2 + VECTOR)
        a = fma(even_bf16(w), splat_f32_at(x, j), a)
        b = fma(odd_bf16(w), splat_f32_at(x, j + 1), b)
        c = fma(even_bf16(v), splat_f32_at(x, j + 2), c)
        d = fma(odd_bf16(v), splat_f32_at(x, j + 3), d)
    return add(add(a, b), add(c, d))


@compiled
def _panel_q8(arena: Any, at: int, at_scale: int, blocks: int, aq: Any, ascale: Any, asum: Any) -> Any:
    value = splat_f32(0.0)
    for g in range(blocks):
        # What the codes' offset adds to the sum is taken off at its start.
        a = splat_i32(-code_offset() * asum[g])
        b = splat_i32(0)
        for v in range(0, 8, 2):
            a = dot_codes(a, load_bytes(arena, at + v * VECTOR), splat_4_bytes(aq, g * BLOCK + 4 * v))
            b = dot_codes(b, load_bytes(arena, at + v * VECTOR + VECTOR), splat_4_bytes(aq, g * BLOCK + 4 * v + 4))
        scale = multiply(load_f16(arena, at_scale), splat_f32_at(ascale, g))
        value = fma(to_f32(add_i32(a, b)), scale, value)
        at += 8 * VECTOR
        at_scale += VECTOR // 2
    return value


@compiled
def _panel_q4(arena: Any, at: int, at_scale: int, blocks: int, aq: Any, ascale: Any, asum: Any) -> Any:
    value = splat_f32(0.0)
    for g in range(blocks):
        product = to_f32(dot_block(arena, at + g * 4 * VECTOR, aq, g * BLOCK, splat_i32(-8 * asum[g])))
        scale = multiply(load_f16(arena, at_scale + g * VECTOR // 2), splat_f32_at(ascale, g))
        value = fma(product, scale, value)
    return value


@compiled
def _panel_q4m(arena: Any, at: int, at_scale: int, at_min: int, blocks: int, aq: Any, ascale: Any, asum: Any) -> Any:
    value = splat_f32(0.0)
    for g in range(blocks):
        product = to_f32(dot_block(arena, at + g * 4 * VECTOR, aq, g * BLOCK, splat_i32(0)))
        scale = splat_f32_at(ascale, g)
        value = fma(product, multiply(load_f16(arena, at_scale + g * VECTOR // 2), scale), value)
        # The minimum of a block counts once for each unit of its inputs' sum.
        value = fma(load_f16(arena, at_min + g * VECTOR // 2), splat_f32(ascale[g] * asum[g]), value)
    return value
