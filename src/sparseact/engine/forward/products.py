"""A linear's products with many tokens, shared by threads: what the prefill calls."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial

import numpy as np
from threadpoolctl import ThreadpoolController

from sparseact.engine.forward.model import Model
from sparseact.engine.forward.prefill import Product
from sparseact.engine.kernels.gemm import HALF, TILE, dot_tiles, tile_inputs
from sparseact.engine.quant.arena import FORMAT, INPUTS, LAYOUT, OUTPUTS, PADDED_INPUTS
from sparseact.engine.quant.layouts import CHUNK, PANELS
from sparseact.engine.quant.repack import bytes_of_chunk
from sparseact.models.formats import BF16, BLOCK, F32, Floats


@contextmanager
def products(model: Model, threads: int) -> Iterator[Product]:
    """`multiply` with a model, and with `threads` threads that end with the context.

    Meanwhile NumPy's products have one thread: OpenBLAS has its threads spin for a tenth of a second after their work,
    on the processors that the first tokens after a prompt want.
    """
    with ThreadPoolExecutor(threads) as pool, _blas().limit(limits=1, user_api="blas"):
        yield partial(multiply, model, pool, threads)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def multiply(model: Model, pool: Executor, threads: int, name: str, x: Floats) -> Floats:
    """W x of a linear for each token, as the decode step computes it, without its bias.

    Args:
        name: of the linear.
        x: float32 [tokens, inputs]; rounded to 8 bits where the weights are integers.

    Returns:
        float32 [tokens, outputs].
    """
    arena, i = model.arena, model.numbers[name]
    form, outputs, inputs, padded = (int(arena.table[i, field]) for field in (FORMAT, OUTPUTS, INPUTS, PADDED_INPUTS))
    floats = form in {F32, BF16}
    width = HALF if floats or len(x) <= HALF else TILE
    tiles = -(-len(x) // width)
    rows = np.zeros((tiles * width, padded), np.float32)
    rows[: len(x), :inputs] = x
    by_tile = rows.reshape(tiles, width, padded)
    x_tiles = np.ascontiguousarray(by_tile.swapaxes(1, 2)) if floats else by_tile
    blocks = padded // BLOCK
    words = np.empty((tiles, padded // 4, width), np.int32)
    ascale, asum = np.empty((tiles, blocks, width), np.float32), np.empty((tiles, blocks, width), np.int32)
    if not floats:
        room = np.empty(padded, np.int8), np.empty(blocks, np.float32), np.empty(blocks, np.int32)
        tile_inputs(rows, len(x), padded, words, ascale, asum, *room)
    chunks = -(-outputs // CHUNK)
    y = np.empty((tiles * width, chunks * CHUNK), np.float32)

    def run(thread: int) -> None:
        first, last = chunks * thread // threads, chunks * (thread + 1) // threads
        size = 0 if arena.table[i, LAYOUT] == PANELS else bytes_of_chunk(form, padded)
        room = np.empty(size, np.uint8)
        dot_tiles(
            arena.data, arena.table, i, first, last, x_tiles, words, ascale, asum, room, y.reshape(-1), 0, y.shape[1]
        )

    if threads == 1:
        run(0)
    else:
        list(pool.map(run, range(threads)))
    return y[: len(x), :outputs]
