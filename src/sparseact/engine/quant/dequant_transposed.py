"""All weights of a linear as float32, for NumPy: what is fitted to them, what a prompt chose. 16 rows at a time.

The layouts `panels` and `columns` have neighbouring rows together, so what is fast to write is the transpose.
"""

from typing import Any

from sparseact.engine.quant.arena import (
    CODES,
    FORMAT,
    INPUTS,
    LAYOUT,
    MINS,
    PADDED_INPUTS,
    PADDED_OUTPUTS,
    SCALES,
    STRIDE,
)
from sparseact.engine.quant.dequant import read_row
from sparseact.engine.quant.layouts import CHUNK, COLUMNS, PANEL, PANELS
from sparseact.engine.simd.bytes import even_bf16, field_to_f32, load_bytes, load_nibbles, odd_bf16, quarters_to_f32
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import fma, load_bf16, load_f16, load_f32, load_i32, multiply, splat_f32, store_f32
from sparseact.models.formats import BF16, BLOCK, F32, Q4M, Q8

VECTOR = 64
"""Bytes of a load."""


@compiled
def unpack_transposed(arena: Any, table: Any, i: int, first: int, last: int, out: Any) -> None:
    """out[:inputs, : last - first] = the transpose of the rows first..last of linear `i`, of any layout.

    Args:
        arena: bytes of all weights.
        table: int64 [linears, FIELDS].
        i: number of the linear.
        first: first row, a multiple of 64.
        last: row to stop before.
        out: float32 [inputs, last - first padded to a multiple of 64], C order; the padding is written too.
    """
    if table[i, LAYOUT] == PANELS:
        for row in range(first, last, PANEL):
            _panel(arena, table, i, row, out, row - first)
    elif table[i, LAYOUT] == COLUMNS:
        for row in range(first, last, CHUNK):
            _chunk(arena, table, i, row, out, row - first)
    else:
        # Slow, by single numbers; linears in this layout are few.
        for row in range(first, last):
            read_row(arena, table, i, row, out[:, row - first])


@compiled
def _offset(arena: Any, table: Any, i: int, at: int) -> Any:
    """The scales of 16 rows at place `at` among the scales, and what the code 0 stands for."""
    form = table[i, FORMAT]
    scale = load_f16(arena, table[i, SCALES] + 2 * at)
    if form == Q4M:
        return scale, load_f16(arena, table[i, MINS] + 2 * at)
    return scale, multiply(scale, splat_f32(-128.0 if form == Q8 else -8.0))


@compiled
def _panel(arena: Any, table: Any, i: int, row: int, out: Any, column: int) -> None:
    form, inputs, padded, stride = table[i, FORMAT], table[i, INPUTS], table[i, PADDED_INPUTS], out.shape[1]
    codes = table[i, CODES]
    if form == F32:
        for j in range(inputs):
            store_f32(out, j * stride + column, load_f32(arena, codes + 4 * (row * padded + j * PANEL)))
    elif form == BF16:
        for j in range(inputs):
            pairs = load_i32(arena, codes + 2 * row * padded + j // 2 * VECTOR)
            store_f32(out, j * stride + column, odd_bf16(pairs) if j % 2 else even_bf16(pairs))
    else:
        start = codes + row * padded // (1 if form == Q8 else 2)
        for j in range(inputs):
            g, k = j // BLOCK, j % BLOCK
            scale, offset = _offset(arena, table, i, row * padded // BLOCK + g * PANEL)
            if form == Q8:
                code = field_to_f32(load_i32(arena, start + j // 4 * VECTOR), j % 4 * 8, 255)
            else:
                four = load_i32(arena, start + g * 4 * VECTOR + k % 16 // 4 * VECTOR)
                code = field_to_f32(four, j % 4 * 8 + k // 16 * 4, 15)
            store_f32(out, j * stride + column, fma(code, scale, offset))


@compiled
def _chunk(arena: Any, table: Any, i: int, row: int, out: Any, column: int) -> None:
    form, rows, stride = table[i, FORMAT], table[i, PADDED_OUTPUTS], out.shape[1]
    codes = table[i, CODES]
    for j in range(table[i, INPUTS]):
        place, at = j * rows + row, j * stride + column
        if form == F32:
            for r in range(0, CHUNK, PANEL):
                store_f32(out, at + r, load_f32(arena, codes + 4 * (place + r)))
        elif form == BF16:
            for r in range(0, CHUNK, PANEL):
                store_f32(out, at + r, load_bf16(arena, codes + 2 * (place + r)))
        else:
            start = codes + j * table[i, STRIDE]
            if form == Q8:
                four = quarters_to_f32(load_bytes(arena, start + row))
            else:
                four = quarters_to_f32(load_nibbles(arena, start + row // 2))
            for z in range(4):
                scale, offset = _offset(arena, table, i, j // BLOCK * rows + row + z * PANEL)
                store_f32(out, at + z * PANEL, fma(four[z], scale, offset))
