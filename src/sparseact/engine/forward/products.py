"""A linear's products with many tokens, shared by threads: what the prefill calls."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from sparseact.engine.forward.entries import dot_tiles, tile_inputs
from sparseact.engine.forward.model import Model
from sparseact.engine.forward.prefill import Product
from sparseact.engine.quant.arena import FORMAT, INPUTS, LAYOUT, OUTPUTS, PADDED_INPUTS
from sparseact.engine.quant.layouts import CHUNK, HALF, PANELS, TILE, bytes_of_chunk
from sparseact.engine.simd.entry import Call
from sparseact.models.formats import BF16, BLOCK, F32, FORMATS, Floats

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


@contextmanager
def products(model: Model, threads: int) -> Iterator[Product]:
    """W x of a linear for each token, as the decode step computes it, with `threads` threads that end with the context.

    Meanwhile NumPy's products have one thread: OpenBLAS has its threads spin for a tenth of a second after their work,
    on the processors that the first tokens after a prompt want.
    """
    _keep_freed_memory()
    scratch: dict[tuple[int, ...], _Scratch] = {}
    with ThreadPoolExecutor(threads) as pool, _blas().limit(limits=1, user_api="blas"):

        def product(name: str, x: Floats) -> Floats:
            i = model.numbers[name]
            form, inputs, padded = (int(model.arena.table[i, field]) for field in (FORMAT, INPUTS, PADDED_INPUTS))
            key = len(x), inputs, padded, form in {F32, BF16}
            if key not in scratch:
                scratch[key] = _Scratch(model, threads, *key)
            return scratch[key].multiply(i, x, pool)

        yield product


@cache
def _blas() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@cache
def _keep_freed_memory() -> None:
    """Have the C library keep what is freed, as glibc does up to the size of the largest block that it ever gave back.

    Else each prompt asks the system for its temporaries again: thousands of page faults, 4% of its time.
    """
    np.empty(31 << 20, np.uint8)  # freed at once, and never touched


_NOTHING = np.empty(0, np.float32)


class _Scratch:
    """Memory for the inputs of some tokens, for linears of one size, and the calls that read it."""

    def __init__(self, model: Model, threads: int, tokens: int, inputs: int, padded: int, floats: bool) -> None:  # noqa: FBT001
        self.table, self.tokens, self.inputs, self.floats = model.arena.table, tokens, inputs, floats
        width = HALF if floats or tokens <= HALF else TILE
        tiles, blocks = -(-tokens // width), padded // BLOCK
        self.rows = np.zeros((tiles * width, padded), np.float32)
        self.by_tile = self.rows.reshape(tiles, width, padded)
        self.x_tiles = np.empty((tiles, padded, width), np.float32) if floats else self.by_tile
        words = np.empty((tiles, padded // 4, width), np.int32)
        scales, sums = np.empty((tiles, blocks, width), np.float32), np.empty((tiles, blocks, width), np.int32)
        quantised = np.empty(padded, np.int8), np.empty(blocks, np.float32), np.empty(blocks, np.int32)
        self.tile = Call(tile_inputs, (self.rows, tokens, padded, words, scales, sums, *quantised))
        weights, read = (model.arena.data, model.arena.table), (self.x_tiles, words, scales, sums)
        most = max(bytes_of_chunk(form, padded) for form in FORMATS)
        regrouped = bool((model.arena.table[:, LAYOUT] != PANELS).any())
        self.dots = [
            Call(dot_tiles, (*weights, 0, 0, 0, *read, np.empty(most, np.uint8) if regrouped else None, _NOTHING, 0, 0))
            for _ in range(threads)
        ]

    def multiply(self, i: int, x: Floats, pool: ThreadPoolExecutor) -> Floats:
        """W x [tokens, outputs] of linear `i`, without its bias; x is rounded to 8 bits where weights are integers."""
        self.rows[: self.tokens, : self.inputs] = x
        if self.floats:
            self.x_tiles[:] = self.by_tile.swapaxes(1, 2)
        else:
            self.tile()
        chunks, threads = -(-int(self.table[i, OUTPUTS]) // CHUNK), len(self.dots)
        y = np.empty((len(self.rows), chunks * CHUNK), np.float32)

        def run(thread: int) -> None:
            call = self.dots[thread]
            for place, value in (2, i), (3, chunks * thread // threads), (4, chunks * (thread + 1) // threads):
                call.set(place, value)
            call.set(10, y.reshape(-1))
            call.set(12, y.shape[1])
            call()

        if threads == 1:
            run(0)
        else:
            list(pool.map(run, range(threads)))
        return y[: self.tokens, : self.table[i, OUTPUTS]]
