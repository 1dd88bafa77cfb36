"""The inputs of a linear as int8, in blocks of 32: what the products of bytes take."""

from typing import Any

from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import (
    absolute,
    add_i32,
    largest,
    load_f32,
    maximum,
    multiply,
    round_to_i32,
    splat_f32,
    store_i8,
    total_i32,
)
from sparseact.models.formats import BLOCK


@compiled
def quantise_input(x: Any, n: int, aq: Any, ascale: Any, asum: Any) -> None:
    """Each block g of 32 of x[:n] as x = ascale[g] * aq, the largest |aq| being 127.

    Args:
        x: float32 [n padded to 32], zero beyond n.
        n: number of inputs.
        aq: int8, as long as x; written.
        ascale: float32 [blocks], max |x| / 127; written.
        asum: int32 [blocks], the sums of aq; written.
    """
    for g in range((n + BLOCK - 1) // BLOCK):
        j = g * BLOCK
        low, high = load_f32(x, j), load_f32(x, j + 16)
        size = largest(maximum(absolute(low), absolute(high)))
        ascale[g] = size / 127
        inverse = splat_f32(127 / size if size > 0 else 0.0)
        low, high = round_to_i32(multiply(low, inverse)), round_to_i32(multiply(high, inverse))
        store_i8(aq, j, low)
        store_i8(aq, j + 16, high)
        asum[g] = total_i32(add_i32(low, high))
