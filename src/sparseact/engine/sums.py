"""Sums of float32 in compiled code, in an order that is written down: 16 at a time, then what is left."""

from typing import Any

import numpy as np

from sparseact.engine.cache import inner
from sparseact.engine.simd import LANES, add, fma, load_f32, splat_f32, total, where_above


@inner
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


@inner
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


@inner
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


@inner
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
