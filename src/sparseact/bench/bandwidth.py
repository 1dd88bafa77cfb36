"""Memory bandwidth that this machine gives a reader, by a compiled sum over more than any cache holds."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sparseact.errors import MissingExtraError

try:
    from numba import njit
except ImportError as error:
    raise MissingExtraError("numba", "engine") from error

SIZE: Final = 512 * 2**20
"""Bytes that are read: many times what the caches of one or two cores hold."""


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _sum(words: NDArray[np.int64]) -> int:
    """Sum of the words; the compiler makes several vectors of it, so that memory is the limit."""
    total = 0
    for place in range(len(words)):
        total += words[place]
    return total


class Bandwidth:
    """Reads the same memory again at each call of `measure`."""

    def __init__(self, threads: int, size: int = SIZE) -> None:
        """size: bytes that are read."""
        # NumPy asks for huge pages where the system has them. Written once, or all pages would be one page of zeros.
        self.words = np.arange(size // 8, dtype=np.int64)
        self.parts = np.array_split(self.words, threads)
        self.pool = ThreadPoolExecutor(threads)
        self.measure(1)  # compiles

    def measure(self, repeats: int = 3) -> float:
        """Bytes per second, the best of some repeats."""
        return max(self._once() for _ in range(repeats))

    def _once(self) -> float:
        started = time.perf_counter()
        total = sum(self.pool.map(_sum, self.parts))
        seconds = time.perf_counter() - started
        assert total == len(self.words) * (len(self.words) - 1) // 2
        return self.words.nbytes / seconds
