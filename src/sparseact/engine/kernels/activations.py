"""Elementwise functions in compiled code, 16 numbers at a time: exp, and what neurons and soft caps are made of."""

from typing import Any

from llvmlite import ir

from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import (
    LANES,
    Emitter,
    absolute,
    add,
    f32x16,
    fma,
    load_f32,
    maximum,
    multiply,
    operation,
    round_to_i32,
    splat_f32,
    store_f32,
    to_f32,
)
from sparseact.models.architecture import Activation

_F32, _I32 = ir.FloatType(), ir.IntType(32)
GELU, GELU_TANH, RELU = int(Activation.GELU), int(Activation.GELU_TANH), int(Activation.RELU)
RELU_SQUARED = int(Activation.RELU_SQUARED)


@operation(f32x16)
def minimum(e: Emitter, a: Any, b: Any) -> ir.Value:
    """The smaller of each lane; b where one is NaN."""
    return e.ir.select(e.ir.fcmp_ordered("<", a, b), a, b)


@operation(f32x16)
def divide(e: Emitter, a: Any, b: Any) -> ir.Value:
    """A / b."""
    return e.ir.fdiv(a, b)


@operation(f32x16)
def power_of_two(e: Emitter, a: Any) -> ir.Value:
    """2 to the power of integers in -126..127: their place in a float32 is the exponent's."""
    kind = ir.VectorType(_I32, LANES)
    biased = e.ir.add(a, ir.Constant(kind, [127] * LANES))
    return e.ir.bitcast(e.ir.shl(biased, ir.Constant(kind, [23] * LANES)), ir.VectorType(_F32, LANES))


@operation(f32x16)
def copy_sign(e: Emitter, size: Any, sign: Any) -> ir.Value:
    """The size of one, the sign of the other."""
    return e.call("llvm.copysign.v16f32", size.type, size, sign)


@compiled
def exponential(x: Any) -> Any:
    """exp(x), 2e-7 relative, for 16 numbers; beyond +-87 as at +-87.

    exp(x) = 2^n exp(r) with |r| <= log(2) / 2, and a polynomial of degree 7 for exp(r) (Cephes' expf).
    """
    x = minimum(maximum(x, splat_f32(-87.0)), splat_f32(87.0))
    n = round_to_i32(multiply(x, splat_f32(1.44269504)))
    whole = to_f32(n)
    # log(2) in two parts, of which the first has few bits, so that its multiples are exact.
    r = fma(whole, splat_f32(-0.693359375), x)
    r = fma(whole, splat_f32(2.12194440e-4), r)
    p = splat_f32(1.9875691500e-4)
    p = fma(p, r, splat_f32(1.3981999507e-3))
    p = fma(p, r, splat_f32(8.3334519073e-3))
    p = fma(p, r, splat_f32(4.1665795894e-2))
    p = fma(p, r, splat_f32(1.6666665459e-1))
    p = fma(p, r, splat_f32(5.0000001201e-1))
    p = add(fma(multiply(r, r), p, r), splat_f32(1.0))
    return multiply(p, power_of_two(n))


@compiled
def _swish(x: Any, z: Any) -> Any:
    """X * sigmoid(z)."""
    return divide(x, add(splat_f32(1.0), exponential(multiply(z, splat_f32(-1.0)))))


@compiled
def _gelu(x: Any) -> Any:
    """X * Phi(x), by Abramowitz and Stegun's formula 7.1.26 for erf, 1.5e-7 absolute."""
    z = multiply(absolute(x), splat_f32(0.70710678))
    t = divide(splat_f32(1.0), fma(z, splat_f32(0.3275911), splat_f32(1.0)))
    p = splat_f32(1.061405429)
    p = fma(p, t, splat_f32(-1.453152027))
    p = fma(p, t, splat_f32(1.421413741))
    p = fma(p, t, splat_f32(-0.284496736))
    p = fma(p, t, splat_f32(0.254829592))
    tail = multiply(multiply(p, t), exponential(multiply(multiply(z, z), splat_f32(-1.0))))
    erf = copy_sign(add(splat_f32(1.0), multiply(tail, splat_f32(-1.0))), x)
    return multiply(multiply(x, splat_f32(0.5)), add(splat_f32(1.0), erf))


@compiled
def activate(kind: int, x: Any, n: int) -> None:
    """x[:n] through an activation of `Activation`, in place; 16 at a time, so that zeros beyond n stay zeros."""
    for j in range(0, n, LANES):
        value = load_f32(x, j)
        if kind == RELU:
            value = maximum(value, splat_f32(0.0))
        elif kind == RELU_SQUARED:
            positive = maximum(value, splat_f32(0.0))
            value = multiply(positive, positive)
        elif kind == GELU:
            value = _gelu(value)
        elif kind == GELU_TANH:
            # 0.5 x (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
            cubic = fma(multiply(multiply(value, value), splat_f32(0.044715)), value, value)
            value = _swish(value, multiply(cubic, splat_f32(1.59576912)))
        else:
            value = _swish(value, value)
        store_f32(x, j, value)


@compiled
def sigmoid(x: Any, n: int) -> None:
    """x[:n] through the logistic function, in place; up to 15 numbers more."""
    for j in range(0, n, LANES):
        store_f32(x, j, _swish(splat_f32(1.0), load_f32(x, j)))


@compiled
def cap(limit: float, x: Any, first: int, last: int) -> None:
    """x[first:last] = limit * tanh(x / limit) in place, 16 at a time; `last` may be overstepped by 15."""
    for j in range(first, last, LANES):
        value = load_f32(x, j)
        # tanh(u) = 1 - 2 / (1 + exp(2 u))
        power = exponential(multiply(value, splat_f32(2.0 / limit)))
        value = divide(splat_f32(-2.0 * limit), add(splat_f32(1.0), power))
        store_f32(x, j, add(splat_f32(limit), value))


@compiled
def rescale(factor: float, x: Any, first: int, last: int) -> None:
    """x[first:last] *= factor."""
    for j in range(first, last):
        x[j] *= factor
