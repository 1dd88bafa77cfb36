"""Sums of float32 in compiled code, in an order that is written down: 16 at a time, then what is left. And argmax."""

from typing import Any

import numpy as np

from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.vectors import LANES, add, fma, largest, load_f32, maximum, splat_f32, total, where_above


@compiled
def total_of(x: Any, n: int) -> Any:
    """The sum of x[:n]."""
    whole = n // LANES * LANES
    sums = splat_f32(0.0)
    for j in range(0, whole, LANES):
        sums = add(sums, load_f32(x, j))
    result = total(sums)
    for j in range(whole, n):
        result += x[j]
    return result


@compiled
def total_of_squares(x: Any, n: int, centre: Any) -> Any:
    """The sum of (x[:n] - centre)^2."""
    whole = n // LANES * LANES
    sums, shift = splat_f32(0.0), splat_f32(-centre)
    for j in range(0, whole, LANES):
        distance = add(load_f32(x, j), shift)
        sums = fma(distance, distance, sums)
    result = total(sums)
    for j in range(whole, n):
        result += (x[j] - centre) * (x[j] - centre)
    return result


@compiled
def total_above(x: Any, n: int, limit: Any) -> Any:
    """The sum of those of x[:n] that are above a limit."""
    whole = n // LANES * LANES
    sums, limits = splat_f32(0.0), splat_f32(limit)
    for j in range(0, whole, LANES):
        value = load_f32(x, j)
        sums = add(sums, where_above(value, limits, value))
    result = total(sums)
    for j in range(whole, n):
        result += x[j] if x[j] > limit else np.float32(0)
    return result


@compiled
def count_below(x: Any, n: int, limit: Any) -> int:
    """How many of x[:n] are below a limit; exact up to 2^24."""
    whole = n // LANES * LANES
    sums, limits, one = splat_f32(0.0), splat_f32(limit), splat_f32(1.0)
    for j in range(0, whole, LANES):
        sums = add(sums, where_above(limits, load_f32(x, j), one))
    count = int(total(sums))
    for j in range(whole, n):
        count += 1 if x[j] < limit else 0
    return count


@compiled
def find_highest(x: Any, first: int, last: int) -> int:
    """The first index of the highest of x[first:last]; `first` if there is none."""
    best, highest = first, -np.float32(np.inf)
    for start in range(first, last, 256):
        end = min(start + 256, last)
        if end - start == 256:
            vector = load_f32(x, start)
            for j in range(start + LANES, end, LANES):
                vector = maximum(vector, load_f32(x, j))
            if not largest(vector) > highest:
                continue
        for j in range(start, end):
            if x[j] > highest:
                best, highest = j, x[j]
    return best
