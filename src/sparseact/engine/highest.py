"""Where the highest of many numbers is."""

from typing import Any

import numpy as np

from sparseact.engine.cache import compiled
from sparseact.engine.simd import LANES, largest, load_f32, maximum


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
