"""Attention of one token to those before it, in compiled code: rotate, remember, attend."""

import math
from typing import Any

import numpy as np

from sparseact.engine.kernels.activations import cap, exponential
from sparseact.engine.kernels.kv_cache import load_cached, store_cached
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import (
    LANES,
    add,
    fma,
    largest,
    load_f32,
    maximum,
    multiply,
    splat_f32,
    splat_f32_at,
    store_f32,
    total,
)


@compiled
def angles(position: int, frequencies: Any, scales: Any, half: int, cos: Any, sin: Any) -> None:
    """Cos and sin of a position, scaled: `half` for each kind of layer, one after the other."""
    for kind in range(frequencies.shape[0]):
        for j in range(half):
            angle = np.float32(position) * frequencies[kind, j]
            cos[kind * half + j] = math.cos(angle) * scales[kind]
            sin[kind * half + j] = math.sin(angle) * scales[kind]


@compiled
def rotate(x: Any, cos: Any, sin: Any, half: int) -> None:
    """Rotate the pairs (i, i + half) of a head in place."""
    for j in range(half):
        left, right = x[j], x[j + half]
        x[j] = left * cos[j] - right * sin[j]
        x[j + half] = right * cos[j] + left * sin[j]


@compiled
def remember(x: Any, head_dim: int, cached: Any) -> None:
    """A head's key or value into its row of the cache; x is zero beyond head_dim."""
    for j in range(0, head_dim, LANES):
        store_cached(cached, j, load_f32(x, j))


@compiled
def attend(
    query: Any, keys: Any, values: Any, first: int, last: int, head_dim: int, softcap: float, weights: Any, out: Any
) -> None:
    """Out = the mean of values[first:last], weighted by softmax(query . keys).

    Args:
        query: float32, scaled, padded with zeros to 16 as all heads.
        keys: [positions, head_dim padded to 16] of this head, float32 or float16.
        values: of the same shape.
        first: first position that is seen.
        last: position to stop before.
        head_dim: of the head.
        softcap: of the scores; 0 for none.
        weights: float32, room for the positions and 16 more.
        out: float32; written.
    """
    count = last - first
    stride = keys.shape[1]
    for position in range(count):
        row = (first + position) * stride
        dot = splat_f32(0.0)
        for j in range(0, head_dim, LANES):
            dot = fma(load_f32(query, j), load_cached(keys, row + j), dot)
        weights[position] = total(dot)
    if softcap > 0:
        cap(softcap, weights, 0, count)
    inverse = np.float32(1) / _softmax(weights, count)
    start = first * stride
    wide = head_dim // (4 * LANES) * (4 * LANES)
    for j in range(0, wide, 4 * LANES):
        _mean_of_64(weights, values, start + j, stride, count, inverse, out, j)
    for j in range(wide, head_dim, LANES):
        _mean_of_16(weights, values, start + j, stride, count, inverse, out, j)


@compiled
def _softmax(x: Any, n: int) -> Any:
    """x[:n] = exp(x - max), whose sum is returned; the next 16 are written too."""
    for j in range(n, n + LANES):
        x[j] = -1e30
    highest = load_f32(x, 0)
    for j in range(LANES, n, LANES):
        highest = maximum(highest, load_f32(x, j))
    shift = splat_f32(-largest(highest))
    sums = splat_f32(0.0)
    for j in range(0, n, LANES):
        power = exponential(add(load_f32(x, j), shift))
        store_f32(x, j, power)
        sums = add(sums, power)
    return total(sums)


@compiled
def _mean_of_64(w: Any, values: Any, at: int, stride: int, count: int, scale: Any, out: Any, j: int) -> None:
    a = b = c = d = splat_f32(0.0)
    for position in range(count):
        weight = splat_f32_at(w, position)
        a = fma(weight, load_cached(values, at), a)
        b = fma(weight, load_cached(values, at + LANES), b)
        c = fma(weight, load_cached(values, at + 2 * LANES), c)
        d = fma(weight, load_cached(values, at + 3 * LANES), d)
        at += stride
    factor = splat_f32(scale)
    store_f32(out, j, multiply(a, factor))
    store_f32(out, j + LANES, multiply(b, factor))
    store_f32(out, j + 2 * LANES, multiply(c, factor))
    store_f32(out, j + 3 * LANES, multiply(d, factor))


@compiled
def _mean_of_16(w: Any, values: Any, at: int, stride: int, count: int, scale: Any, out: Any, j: int) -> None:
    sums = splat_f32(0.0)
    for position in range(count):
        sums = fma(splat_f32_at(w, position), load_cached(values, at), sums)
        at += stride
    store_f32(out, j, multiply(sums, splat_f32(scale)))
