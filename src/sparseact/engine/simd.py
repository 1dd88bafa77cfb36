"""Vectors in compiled code: types of 16 lanes (64 bytes) and the operations on them.

Each operation emits LLVM's generic vector instructions, which LLVM turns into what the machine has:
one AVX-512 register, two of AVX2, four of NEON. Only the product of bytes (`dot_bytes`) names
instructions of its own. Use them in functions that are `@compiled`; in plain Python they cannot be called.

Loads and stores take an array and an element index of that array, whatever its type is: the weights
are one array of bytes, and an index in it is a byte offset. Nothing is checked and nothing need be aligned.
"""

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic

from sparseact.engine.targets import Target, dot_bytes_ir, half_to_float_ir

LANES = 16

_F32, _F16 = ir.FloatType(), ir.HalfType()
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_V_F32, _V_F16 = ir.VectorType(_F32, LANES), ir.VectorType(_F16, LANES)
_V_I32, _V_I16, _V_I8 = (ir.VectorType(kind, LANES) for kind in (_I32, _I16, _I8))
_V_BYTES = ir.VectorType(_I8, 64)


class F32x16(types.Type):
    """Numba's type of 16 float32 in a vector."""


class I32x16(types.Type):
    """Numba's type of 16 int32 in a vector."""


class U8x64(types.Type):
    """Numba's type of 64 bytes in a vector."""


def _as_vector(numba_type: Any, kind: ir.Type) -> Any:
    """The type, which is one LLVM vector and nothing else."""

    @register_default(type(numba_type))
    class _Model(models.PrimitiveModel):
        def __init__(self, manager: Any, frontend: Any) -> None:
            super().__init__(manager, frontend, kind)

    return numba_type


# Classes with names in this module: kept code of another process refers to them by name.
f32x16 = _as_vector(F32x16("f32x16"), _V_F32)
i32x16 = _as_vector(I32x16("i32x16"), _V_I32)
u8x64 = _as_vector(U8x64("u8x64"), _V_BYTES)


class Emitter:
    """What an operation emits with: LLVM's builder, the types of the arguments, and pointers into arrays."""

    def __init__(self, context: Any, builder: ir.IRBuilder, argument_types: tuple[Any, ...]) -> None:
        self.context = context
        self.ir = builder
        self.types = argument_types
        self.target = Target.of(context)

    def pointer(self, array: ir.Value, i: ir.Value, kind: ir.Type) -> ir.Value:
        """Pointer to element `i` of `array`: the first two arguments of the operation."""
        index = self.scalar(i, 1, types.intp)
        data = self.context.make_array(self.types[0])(self.context, self.ir, array).data
        return self.ir.bitcast(self.ir.gep(data, [index], inbounds=True), kind.as_pointer())

    def load(self, array: ir.Value, i: ir.Value, kind: ir.Type) -> ir.Value:
        """Load from element `i` of `array` on: the first two arguments of the operation."""
        value = self.ir.load(self.pointer(array, i, kind))
        value.align = 1
        return value

    def store(self, array: ir.Value, i: ir.Value, value: ir.Value) -> ir.Value:
        """Store to element `i` of `array` on: the first two arguments of the operation."""
        self.ir.store(value, self.pointer(array, i, value.type)).align = 1
        return self.context.get_dummy_value()

    def scalar(self, value: ir.Value, i: int, numba_type: Any) -> ir.Value:
        """The argument `value`, which is number `i`, converted to a scalar type."""
        return self.context.cast(self.ir, value, self.types[i], numba_type)

    def call(self, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
        """Call one of LLVM's own functions, or a function of the process."""
        signature = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.ir.call(cgutils.get_or_insert_function(self.ir.module, signature, name), arguments)

    def splat(self, value: ir.Value, lanes: int = LANES) -> ir.Value:
        """A vector with the same value in each lane."""
        vector = ir.VectorType(value.type, lanes)
        first = self.ir.insert_element(ir.Constant(vector, ir.Undefined), value, _I32(0))
        return self.shuffle(first, first, [0] * lanes)

    def shuffle(self, a: ir.Value, b: ir.Value, lanes: list[int]) -> ir.Value:
        """The lanes of `a` and `b`, counted through both, in a new order."""
        return self.ir.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


Emit = Callable[..., ir.Value]


def operation(result: Any) -> Callable[[Emit], Any]:
    """Make an operation of a function that emits it: `emit(emitter, *arguments)` gives the value of type `result`."""

    def make(emit: Emit) -> Any:
        def typing(_context: Any, *arguments: Any) -> Any:
            def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
                return emit(Emitter(context, builder, signature.args), *values)

            return result(*arguments), generate

        typing.__name__ = typing.__qualname__ = emit.__name__
        typing.__doc__ = emit.__doc__
        # The arguments by name, as Numba wants them; the emitter's place is the typing context's.
        typing.__signature__ = inspect.signature(emit)  # type: ignore[attr-defined]
        return intrinsic(typing)

    return make


def _same(lanes: int, value: int, kind: ir.Type) -> ir.Constant:
    return ir.Constant(ir.VectorType(kind, lanes), [value] * lanes)


# Loads


@operation(f32x16)
def load_f32(e: Emitter, array: Any, i: Any) -> ir.Value:
    """16 float32."""
    return e.load(array, i, _V_F32)


@operation(f32x16)
def load_f16(e: Emitter, array: Any, i: Any) -> ir.Value:
    """16 float16, widened."""
    return half_to_float_ir(e, e.load(array, i, _V_I16))


@operation(f32x16)
def load_bf16(e: Emitter, array: Any, i: Any) -> ir.Value:
    """16 bfloat16, widened."""
    wide = e.ir.zext(e.load(array, i, _V_I16), _V_I32)
    return e.ir.bitcast(e.ir.shl(wide, _same(LANES, 16, _I32)), _V_F32)


@operation(i32x16)
def load_i32(e: Emitter, array: Any, i: Any) -> ir.Value:
    """16 int32."""
    return e.load(array, i, _V_I32)


@operation(u8x64)
def load_bytes(e: Emitter, array: Any, i: Any) -> ir.Value:
    """64 bytes."""
    return e.load(array, i, _V_BYTES)


@operation(u8x64)
def load_nibbles(e: Emitter, array: Any, i: Any) -> ir.Value:
    """32 bytes as 64 numbers in 0..15: the low halves of the bytes, then the high halves."""
    half = e.load(array, i, ir.VectorType(_I8, 32))
    low = e.ir.and_(half, _same(32, 15, _I8))
    high = e.ir.lshr(half, _same(32, 4, _I8))
    return e.shuffle(low, high, list(range(64)))


@operation(u8x64)
def splat_4_bytes(e: Emitter, array: Any, i: Any) -> ir.Value:
    """4 bytes of an array, 16 times over."""
    return e.ir.bitcast(e.splat(e.load(array, i, _I32)), _V_BYTES)


@operation(f32x16)
def splat_f32_at(e: Emitter, array: Any, i: Any) -> ir.Value:
    """One float32 of an array in all lanes."""
    return e.splat(e.load(array, i, _F32))


@operation(types.float32)
def f16_at(e: Emitter, array: Any, i: Any) -> ir.Value:
    """One float16 of an array, widened."""
    one = ir.VectorType(_I16, 1)
    return e.ir.extract_element(half_to_float_ir(e, e.load(array, i, one)), _I32(0))


@operation(types.float32)
def bf16_at(e: Emitter, array: Any, i: Any) -> ir.Value:
    """One bfloat16 of an array, widened."""
    return e.ir.bitcast(e.ir.shl(e.ir.zext(e.load(array, i, _I16), _I32), _I32(16)), _F32)


@operation(types.float32)
def f32_at(e: Emitter, array: Any, i: Any) -> ir.Value:
    """One float32 of an array."""
    return e.load(array, i, _F32)


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


# Stores


@operation(types.void)
def store_f32(e: Emitter, array: Any, i: Any, value: Any) -> ir.Value:
    """Store 16 float32."""
    return e.store(array, i, value)


@operation(types.void)
def store_i32(e: Emitter, array: Any, i: Any, value: Any) -> ir.Value:
    """Store 16 int32."""
    return e.store(array, i, value)


@operation(types.void)
def store_i8(e: Emitter, array: Any, i: Any, value: Any) -> ir.Value:
    """Store the low bytes of 16 int32."""
    return e.store(array, i, e.ir.trunc(value, _V_I8))


# From scalars


@operation(f32x16)
def splat_f32(e: Emitter, value: Any) -> ir.Value:
    """A number in all lanes."""
    return e.splat(e.scalar(value, 0, types.float32))


@operation(i32x16)
def splat_i32(e: Emitter, value: Any) -> ir.Value:
    """An integer in all lanes."""
    return e.splat(e.scalar(value, 0, types.int32))


@operation(i32x16)
def splat_halves_i32(e: Emitter, a: Any, b: Any) -> ir.Value:
    """An integer in the lanes 0..7 and another in 8..15."""
    low, high = e.splat(e.scalar(a, 0, types.int32)), e.splat(e.scalar(b, 1, types.int32))
    return e.shuffle(low, high, [*range(8), *range(16, 24)])


@operation(u8x64)
def splat_bytes(e: Emitter, a: Any, b: Any, c: Any, d: Any) -> ir.Value:
    """4 numbers as bytes, 16 times over."""
    word = _I32(0)
    for i, value in enumerate((a, b, c, d)):
        byte = e.ir.and_(e.scalar(value, i, types.int32), _I32(255))
        word = e.ir.or_(word, e.ir.shl(byte, _I32(8 * i)))
    return e.ir.bitcast(e.splat(word), _V_BYTES)


# Arithmetic


@operation(f32x16)
def add(e: Emitter, a: Any, b: Any) -> ir.Value:
    """The sum a + b."""
    return e.ir.fadd(a, b)


@operation(f32x16)
def multiply(e: Emitter, a: Any, b: Any) -> ir.Value:
    """The product a * b."""
    return e.ir.fmul(a, b)


@operation(f32x16)
def fma(e: Emitter, a: Any, b: Any, c: Any) -> ir.Value:
    """The sum a * b + c, rounded once where the machine can: a function call per lane would be no use."""
    if e.target.architecture == "x86_64" and "fma" not in e.target.features:
        return e.ir.fadd(e.ir.fmul(a, b), c)
    return e.call("llvm.fma.v16f32", _V_F32, a, b, c)


@operation(i32x16)
def add_i32(e: Emitter, a: Any, b: Any) -> ir.Value:
    """The sum a + b."""
    return e.ir.add(a, b)


@operation(f32x16)
def to_f32(e: Emitter, a: Any) -> ir.Value:
    """Integers as numbers."""
    return e.ir.sitofp(a, _V_F32)


@operation(i32x16)
def round_to_i32(e: Emitter, a: Any) -> ir.Value:
    """Nearest integers, halves to even."""
    return e.ir.fptosi(e.call("llvm.roundeven.v16f32", _V_F32, a), _V_I32)


@operation(f32x16)
def absolute(e: Emitter, a: Any) -> ir.Value:
    """|a|."""
    return e.call("llvm.fabs.v16f32", _V_F32, a)


@operation(f32x16)
def maximum(e: Emitter, a: Any, b: Any) -> ir.Value:
    """The larger of each lane; b where one is NaN."""
    return e.ir.select(e.ir.fcmp_ordered(">", a, b), a, b)


@operation(types.float32)
def largest(e: Emitter, a: Any) -> ir.Value:
    """The largest of the lanes."""
    return e.call("llvm.vector.reduce.fmax.v16f32", _F32, a)


@operation(types.float32)
def total(e: Emitter, a: Any) -> ir.Value:
    """The sum of the lanes, by halves."""
    for lanes in (8, 4, 2, 1):
        low, high = e.shuffle(a, a, list(range(lanes))), e.shuffle(a, a, list(range(lanes, 2 * lanes)))
        a = e.ir.fadd(low, high)
    return e.ir.extract_element(a, _I32(0))


@operation(types.int32)
def total_i32(e: Emitter, a: Any) -> ir.Value:
    """The sum of the lanes."""
    return e.call("llvm.vector.reduce.add.v16i32", _I32, a)


# Bytes, nibbles and bfloat16 within vectors


@operation(i32x16)
def dot_bytes(e: Emitter, acc: Any, a: Any, b: Any) -> ir.Value:
    """Add to acc, in each lane, the 4 products of the bytes of a (unsigned) and b (signed)."""
    return dot_bytes_ir(e, acc, a, b)


@operation(u8x64)
def low_nibbles(e: Emitter, a: Any) -> ir.Value:
    """The low 4 bits of each byte."""
    return e.ir.and_(a, _same(64, 15, _I8))


@operation(u8x64)
def high_nibbles(e: Emitter, a: Any) -> ir.Value:
    """The high 4 bits of each byte."""
    return e.ir.lshr(a, _same(64, 4, _I8))


@operation(f32x16)
def even_bf16(e: Emitter, pairs: Any) -> ir.Value:
    """The first bfloat16 of each of 16 pairs (load_i32)."""
    return e.ir.bitcast(e.ir.shl(pairs, _same(LANES, 16, _I32)), _V_F32)


@operation(f32x16)
def odd_bf16(e: Emitter, pairs: Any) -> ir.Value:
    """The second bfloat16 of each of 16 pairs (load_i32)."""
    return e.ir.bitcast(e.ir.and_(pairs, _same(LANES, -65536, _I32)), _V_F32)


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


# Memory


@operation(types.void)
def prefetch(e: Emitter, array: Any, i: Any) -> ir.Value:
    """Ask for a cache line, into the second level: the first has too few outstanding misses to fill from memory."""
    e.call("llvm.prefetch.p0", ir.VoidType(), e.pointer(array, i, _I8), _I32(0), _I32(2), _I32(1))
    return e.context.get_dummy_value()
