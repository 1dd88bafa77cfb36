"""The key-value cache in compiled code: float32 as it is, or float16 as uint16, for Numba knows no float16."""

from typing import Any

from llvmlite import ir
from numba.core import types

from sparseact.engine.simd.isa import half_to_float_ir
from sparseact.engine.simd.vectors import LANES, Emitter, f32x16, operation

_F32, _I16, _I32 = ir.FloatType(), ir.IntType(16), ir.IntType(32)


@operation(f32x16)
def load_cached(e: Emitter, array: Any, i: Any) -> ir.Value:
    """16 numbers of an array of float32, or of float16 as uint16."""
    if e.types[0].dtype == types.float32:
        return e.load(array, i, ir.VectorType(_F32, LANES))
    return half_to_float_ir(e, e.load(array, i, ir.VectorType(_I16, LANES)))


@operation(types.void)
def store_cached(e: Emitter, array: Any, i: Any, value: Any) -> ir.Value:
    """16 numbers into an array of float32, or of float16 as uint16, rounded to nearest even."""
    if e.types[0].dtype != types.float32:
        value = _float_to_half_ir(e, value)
    return e.store(array, i, value)


def _float_to_half_ir(e: Emitter, value: ir.Value) -> ir.Value:
    """<16 x float> as float16, given as <16 x i16>."""
    if e.target.architecture != "x86_64" or e.target.features & {"f16c", "avx512f"}:
        half = e.ir.fptrunc(value, ir.VectorType(ir.HalfType(), LANES))
        return e.ir.bitcast(half, ir.VectorType(_I16, LANES))
    # Without the instruction LLVM would call a function that Numba has not.
    kind = ir.VectorType(_I32, LANES)

    def same(number: int) -> ir.Constant:
        return ir.Constant(kind, [number] * LANES)

    bits = e.ir.bitcast(value, kind)
    size = e.ir.and_(bits, same(0x7FFFFFFF))
    # The exponent's bias is 112 less; 13 bits go, rounded to nearest even.
    odd = e.ir.and_(e.ir.lshr(size, same(13)), same(1))
    normal = e.ir.lshr(e.ir.add(e.ir.add(size, same(0xFFF - (112 << 23))), odd), same(13))
    # Below 2^-14: adding 0.5 puts the last bit of a subnormal float16 at the last bit of a float32.
    shifted = e.ir.fadd(e.ir.bitcast(size, value.type), ir.Constant(value.type, [0.5] * LANES))
    small = e.ir.sub(e.ir.bitcast(shifted, kind), same(0x3F000000))
    half = e.ir.select(e.ir.icmp_unsigned("<", size, same(0x38800000)), small, normal)
    half = e.ir.select(e.ir.icmp_unsigned(">=", size, same(0x477FF000)), same(0x7C00), half)
    half = e.ir.select(e.ir.icmp_unsigned(">", size, same(0x7F800000)), same(0x7E00), half)
    half = e.ir.or_(half, e.ir.and_(e.ir.lshr(bits, same(16)), same(0x8000)))
    return e.ir.trunc(half, ir.VectorType(_I16, LANES))
