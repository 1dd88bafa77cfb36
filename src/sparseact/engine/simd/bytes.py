"""Operations on what is smaller than a lane: bytes, halves of bytes, bfloat16 and float16 in pairs. See simd.py."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from sparseact.engine.simd.isa import code_offset_of, dot_codes_ir, dot_nibbles_ir, half_to_float_ir
from sparseact.engine.simd.vectors import LANES, Emitter, f32x16, i32x16, operation, same, u8x64

_F32, _I8, _I16, _I32 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32)
_V_F32, _V_I32, _V_BYTES = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES), ir.VectorType(_I8, 64)


# Bytes and halves of bytes


@operation(u8x64)
def load_bytes(e: Emitter, array: Any, i: Any) -> ir.Value:
    """64 bytes."""
    return e.load(array, i, _V_BYTES)


@operation(u8x64)
def load_nibbles(e: Emitter, array: Any, i: Any) -> ir.Value:
    """32 bytes as 64 numbers in 0..15: the low halves of the bytes, then the high halves."""
    half = e.load(array, i, ir.VectorType(_I8, 32))
    low = e.ir.and_(half, same(32, 15, _I8))
    high = e.ir.lshr(half, same(32, 4, _I8))
    return e.shuffle(low, high, list(range(64)))


@operation(u8x64)
def splat_4_bytes(e: Emitter, array: Any, i: Any) -> ir.Value:
    """4 bytes of an array, 16 times over."""
    return e.ir.bitcast(e.splat(e.load(array, i, _I32)), _V_BYTES)


@operation(u8x64)
def splat_bytes(e: Emitter, a: Any, b: Any, c: Any, d: Any) -> ir.Value:
    """4 numbers as bytes, 16 times over."""
    word = _I32(0)
    for i, value in enumerate((a, b, c, d)):
        byte = e.ir.and_(e.scalar(value, i, types.int32), _I32(255))
        word = e.ir.or_(word, e.ir.shl(byte, _I32(8 * i)))
    return e.ir.bitcast(e.splat(word), _V_BYTES)


@operation(i32x16)
def dot_codes(e: Emitter, acc: Any, a: Any, b: Any) -> ir.Value:
    """Add to acc, in each lane, the 4 products of codes of a and bytes of b, and of b times `code_offset`."""
    return dot_codes_ir(e, acc, a, b)


@operation(types.int32)
def code_offset(e: Emitter) -> ir.Value:
    """What is to be taken off a sum of `dot_codes` for each unit of b: a number of the processor."""
    return _I32(code_offset_of(e.target))


@operation(i32x16)
def dot_nibbles(e: Emitter, acc: Any, a: Any, b: Any) -> ir.Value:
    """Add to acc, in each lane, the 4 products of bytes of a, 0..15, and of b (signed)."""
    return dot_nibbles_ir(e, acc, [(a, b)])


@operation(i32x16)
def dot_block(e: Emitter, array: Any, i: Any, x: Any, j: Any, acc: Any) -> ir.Value:
    """Acc + the products of a block of 32 nibbles of 16 rows, from i on, with the 32 bytes of x from j on.

    The low nibbles of 4 vectors are the first 16 inputs, 4 to a lane, and the high ones the last 16.
    """

    def four(k: int) -> ir.Value:
        return e.ir.bitcast(e.splat(e.load(x, j, _I32, 2, 4 * k)), _V_BYTES)

    return _dot_four(e, array, i, four, acc)


@operation(i32x16)
def dot_spread(e: Emitter, array: Any, i: Any, x: Any, j: Any, acc: Any) -> ir.Value:
    """Acc + the products of the nibbles of 4 vectors, from i on, with 8 vectors of x, from j on: the low ones first."""
    return _dot_four(e, array, i, lambda k: e.load(x, j, _V_BYTES, 2, 64 * k), acc)


def _dot_four(e: Emitter, array: Any, i: Any, other: Callable[[int], ir.Value], acc: Any) -> ir.Value:
    pairs = []
    for k in range(4):
        w = e.load(array, i, _V_BYTES, 0, 64 * k)
        pairs += [(e.ir.and_(w, same(64, 15, _I8)), other(k)), (e.ir.lshr(w, same(64, 4, _I8)), other(4 + k))]
    return dot_nibbles_ir(e, acc, pairs)


@operation(u8x64)
def low_nibbles(e: Emitter, a: Any) -> ir.Value:
    """The low 4 bits of each byte."""
    return e.ir.and_(a, same(64, 15, _I8))


@operation(u8x64)
def high_nibbles(e: Emitter, a: Any) -> ir.Value:
    """The high 4 bits of each byte."""
    return e.ir.lshr(a, same(64, 4, _I8))


@operation(i32x16)
def load_pairs(e: Emitter, array: Any, i: Any, j: Any) -> ir.Value:
    """16 numbers of 16 bits from i on, each with one from j on above it. `i` and `j` have one type."""
    half = ir.VectorType(_I16, LANES)
    low, high = (e.ir.zext(e.load(array, at, half), _V_I32) for at in (i, j))
    return e.ir.or_(low, e.ir.shl(high, same(LANES, 16, _I32)))


@operation(f32x16)
def even_bf16(e: Emitter, pairs: Any) -> ir.Value:
    """The first bfloat16 of each of 16 pairs (load_i32)."""
    return e.ir.bitcast(e.ir.shl(pairs, same(LANES, 16, _I32)), _V_F32)


@operation(f32x16)
def odd_bf16(e: Emitter, pairs: Any) -> ir.Value:
    """The second bfloat16 of each of 16 pairs (load_i32)."""
    return e.ir.bitcast(e.ir.and_(pairs, same(LANES, -65536, _I32)), _V_F32)


@operation(f32x16)
def field_to_f32(e: Emitter, a: Any, shift: Any, mask: Any) -> ir.Value:
    """The number in some bits of each lane of integers: a >> shift & mask."""
    shifted = e.ir.lshr(a, e.splat(e.scalar(shift, 1, types.int32)))
    return e.ir.sitofp(e.ir.and_(shifted, e.splat(e.scalar(mask, 2, types.int32))), _V_F32)


def _quarter(e: Emitter, a: Any, z: int) -> ir.Value:
    """The 16 bytes that layouts.pack made of the rows 16 z .. 16 z + 15 of a column's chunk, as numbers."""
    rows = e.shuffle(a, a, [16 * group + 4 * z + i for group in range(4) for i in range(4)])
    return e.ir.uitofp(e.ir.zext(rows, _V_I32), _V_F32)


@operation(types.UniTuple(f32x16, 4))
def quarters_to_f32(e: Emitter, a: Any) -> ir.Value:
    """64 codes of a column as numbers, in the order of its rows."""
    kind = types.UniTuple(f32x16, 4)
    return e.context.make_tuple(e.ir, kind, [_quarter(e, a, z) for z in range(4)])


def _interleaved(e: Emitter, a: Any, b: Any, unit: int, first: int) -> ir.Value:
    """Of each 16 bytes of a and b, the `first` or second 8, alternating `unit` bytes of a with `unit` bytes of b."""
    lanes = [
        part * 64 + group * 16 + first * 8 + i * unit + byte
        for group in range(4)
        for i in range(8 // unit)
        for part in (0, 1)
        for byte in range(unit)
    ]
    return e.shuffle(a, b, lanes)


@operation(u8x64)
def interleave_low_8(e: Emitter, a: Any, b: Any) -> ir.Value:
    """Bytes 0..7 of each 16 of a and b, alternating."""
    return _interleaved(e, a, b, 1, 0)


@operation(u8x64)
def interleave_high_8(e: Emitter, a: Any, b: Any) -> ir.Value:
    """Bytes 8..15 of each 16 of a and b, alternating."""
    return _interleaved(e, a, b, 1, 1)


@operation(u8x64)
def interleave_low_16(e: Emitter, a: Any, b: Any) -> ir.Value:
    """Bytes 0..7 of each 16 of a and b, alternating in twos."""
    return _interleaved(e, a, b, 2, 0)


@operation(u8x64)
def interleave_high_16(e: Emitter, a: Any, b: Any) -> ir.Value:
    """Bytes 8..15 of each 16 of a and b, alternating in twos."""
    return _interleaved(e, a, b, 2, 1)


@operation(u8x64)
def join_nibbles(e: Emitter, low: Any, high: Any) -> ir.Value:
    """Numbers in 0..15 as halves of bytes."""
    return e.ir.or_(low, e.ir.shl(high, same(64, 4, _I8)))


@operation(types.void)
def store_bytes(e: Emitter, array: Any, i: Any, value: Any) -> ir.Value:
    """64 bytes."""
    return e.store(array, i, value)


# Two blocks in one vector


def _halves(e: Emitter, pair: ir.Value) -> ir.Value:
    return e.shuffle(pair, pair, [0] * 8 + [1] * 8)


@operation(f32x16)
def splat_halves_f32(e: Emitter, array: Any, i: Any) -> ir.Value:
    """Two float32 of an array: the first in the lanes 0..7, the second in 8..15."""
    return _halves(e, e.load(array, i, ir.VectorType(_F32, 2)))


@operation(f32x16)
def splat_halves_f16(e: Emitter, array: Any, i: Any) -> ir.Value:
    """Two float16 of an array, widened: the first in the lanes 0..7, the second in 8..15."""
    return half_to_float_ir(e, _halves(e, e.load(array, i, ir.VectorType(_I16, 2))))


@operation(i32x16)
def splat_halves_i32(e: Emitter, a: Any, b: Any) -> ir.Value:
    """An integer in the lanes 0..7 and another in 8..15."""
    low, high = e.splat(e.scalar(a, 0, types.int32)), e.splat(e.scalar(b, 1, types.int32))
    return e.shuffle(low, high, [*range(8), *range(16, 24)])
