"""Vectors in compiled code: types of 16 lanes (64 bytes) and the operations on them.

Each operation emits LLVM's generic vector instructions, which LLVM turns into what the machine has:
one AVX-512 register, two of AVX2, four of NEON. Only the product of bytes (packed.py) names
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

from sparseact.engine.simd.isa import Target, half_to_float_ir

LANES = 16

_F32 = ir.FloatType()
_I8, _I16, _I32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_V_F32 = ir.VectorType(_F32, LANES)
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

    def pointer(self, array: ir.Value, i: ir.Value, kind: ir.Type, first: int = 0, after: int = 0) -> ir.Value:
        """Pointer to element `i + after` of `array`: arguments `first`, and the next, of the operation."""
        index = self.ir.add(self.scalar(i, first + 1, types.intp), ir.IntType(64)(after))
        data = self.context.make_array(self.types[first])(self.context, self.ir, array).data
        return self.ir.bitcast(self.ir.gep(data, [index], inbounds=True), kind.as_pointer())

    def load(self, array: ir.Value, i: ir.Value, kind: ir.Type, first: int = 0, after: int = 0) -> ir.Value:
        """Load from element `i + after` of `array` on: arguments `first`, and the next, of the operation."""
        value = self.ir.load(self.pointer(array, i, kind, first, after))
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

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """The sum a * b + c, rounded once where the machine can: a function call per lane would be no use."""
        if self.target.architecture == "x86_64" and "fma" not in self.target.features:
            return self.ir.fadd(self.ir.fmul(a, b), c)
        return self.call("llvm.fma.v16f32", _V_F32, a, b, c)

    def splat(self, value: ir.Value, lanes: int = LANES) -> ir.Value:
        """A vector with the same value in each lane."""
        vector = ir.VectorType(value.type, lanes)
        first = self.ir.insert_element(ir.Constant(vector, ir.Undefined), value, _I32(0))
        return self.shuffle(first, first, [0] * lanes)

    def shuffle(self, a: ir.Value, b: ir.Value, lanes: list[int]) -> ir.Value:
        """The lanes of `a` and `b`, counted through both, in a new order."""
        return self.ir.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))

    def halves(self, a: ir.Value, lanes: int) -> tuple[ir.Value, ir.Value]:
        """The first so many lanes of `a`, and as many after them."""
        return self.shuffle(a, a, list(range(lanes))), self.shuffle(a, a, list(range(lanes, 2 * lanes)))


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


def same(lanes: int, value: int, kind: ir.Type) -> ir.Constant:
    """A constant vector with one value in all lanes."""
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
    return e.ir.bitcast(e.ir.shl(wide, same(LANES, 16, _I32)), _V_F32)


@operation(i32x16)
def load_i32(e: Emitter, array: Any, i: Any) -> ir.Value:
    """16 int32."""
    return e.load(array, i, _V_I32)


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


@operation(types.int64)
def i64_at(e: Emitter, array: Any, i: Any) -> ir.Value:
    """One int64 of an array, whose index is not below 0."""
    return e.load(array, i, ir.IntType(64))


@operation(types.float32)
def f32_at(e: Emitter, array: Any, i: Any) -> ir.Value:
    """One float32 of an array."""
    return e.load(array, i, _F32)


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
    """The sum a * b + c, rounded once where the machine can."""
    return e.fma(a, b, c)


@operation(i32x16)
def add_i32(e: Emitter, a: Any, b: Any) -> ir.Value:
    """The sum a + b."""
    return e.ir.add(a, b)


@operation(i32x16)
def shift_left(e: Emitter, a: Any, bits: Any) -> ir.Value:
    """Integers times 2 to the power of bits."""
    return e.ir.shl(a, e.splat(e.scalar(bits, 1, types.int32)))


@operation(i32x16)
def shift_right(e: Emitter, a: Any, bits: Any) -> ir.Value:
    """Integers divided by 2 to the power of bits, rounded down."""
    return e.ir.ashr(a, e.splat(e.scalar(bits, 1, types.int32)))


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


@operation(f32x16)
def where_above(e: Emitter, a: Any, b: Any, value: Any) -> ir.Value:
    """The value where a > b, else 0."""
    return e.ir.select(e.ir.fcmp_ordered(">", a, b), value, ir.Constant(_V_F32, None))


@operation(types.float32)
def largest(e: Emitter, a: Any) -> ir.Value:
    """The largest of the lanes, none of which is NaN."""
    for lanes in (8, 4, 2, 1):
        low, high = e.halves(a, lanes)
        a = e.ir.select(e.ir.fcmp_ordered(">", low, high), low, high)
    return e.ir.extract_element(a, _I32(0))


@operation(types.float32)
def total(e: Emitter, a: Any) -> ir.Value:
    """The sum of the lanes, by halves."""
    for lanes in (8, 4, 2, 1):
        a = e.ir.fadd(*e.halves(a, lanes))
    return e.ir.extract_element(a, _I32(0))


@operation(types.int32)
def total_i32(e: Emitter, a: Any) -> ir.Value:
    """The sum of the lanes."""
    return e.call("llvm.vector.reduce.add.v16i32", _I32, a)


# Memory


@operation(types.void)
def prefetch(e: Emitter, array: Any, i: Any) -> ir.Value:
    """Ask for a cache line, into the first level: into the second, columns come a tenth more slowly."""
    e.call("llvm.prefetch.p0", ir.VoidType(), e.pointer(array, i, _I8), _I32(0), _I32(3), _I32(1))
    return e.context.get_dummy_value()


@operation(types.void)
def prefetch_far(e: Emitter, array: Any, i: Any) -> ir.Value:
    """Ask for a cache line, into the second level: what is long and asked for early comes half as fast again."""
    e.call("llvm.prefetch.p0", ir.VoidType(), e.pointer(array, i, _I8), _I32(0), _I32(2), _I32(1))
    return e.context.get_dummy_value()
