"""What the passes over several tokens read and write, beside the buffers of a step (see `verify`)."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sparseact.engine.forward.state import DOWN, FLOATS, Buffers, Sizes, Tables, padded, zeros
from sparseact.engine.quant.arena import FORMAT, LAYOUT, OFFSET, PADDED_INPUTS, SELECTOR
from sparseact.engine.quant.layouts import HALF, PANELS, bytes_of_chunk
from sparseact.models.formats import BLOCK, FORMATS, Floats
from sparseact.recipes.selection import EVERYTHING

MOST = 2 * HALF
"""Tokens of a pass."""


class Batch(NamedTuple):
    """What a pass reads and writes. What begins with [threads] is each thread's own."""

    tokens: npt.NDArray[np.int64]  # [1 + MOST]: how many there are, 0 for a decode step instead; then the tokens
    found: npt.NDArray[np.int64]  # [MOST] the likeliest token after each
    floats: Floats  # [MOST, threads, FLOATS, ...] as the step's
    outputs: Floats  # [MOST, DOWN + 1, 1, ...] of the linears
    flat_outputs: Floats  # the same memory
    logits: Floats  # [MOST, vocabulary padded]
    flat_logits: Floats  # the same memory
    attended: Floats  # [MOST, ...]
    x: Floats  # [threads, MOST, ...] input of a linear, as the next four
    x_tiles: Floats  # [threads, tiles, ..., HALF]
    words: npt.NDArray[np.int32]  # [threads, tiles, ... / 4, HALF]
    scales: Floats  # [threads, tiles, blocks, HALF]
    sums: npt.NDArray[np.int32]  # [threads, tiles, blocks, HALF]
    scratch: npt.NDArray[np.uint8]  # [threads, ...] for 64 rows as panels
    highest: Floats  # [threads, MOST]
    best: npt.NDArray[np.int64]  # [threads, MOST]


def batch_of(sizes: Sizes, tables: Tables, buffers: Buffers) -> Batch:
    """Buffers for passes beside those of a step."""
    (threads, _, widest), tiles = buffers.floats.shape, MOST // HALF
    outputs = zeros((MOST, DOWN + 1, 1, widest))
    logits = zeros((MOST, padded(sizes.vocabulary)))
    regrouped = tables.linears[tables.linears[:, LAYOUT] != PANELS]
    scratch = max((bytes_of_chunk(FORMATS[row[FORMAT]], int(row[PADDED_INPUTS])) for row in regrouped), default=1)
    return Batch(
        tokens=np.zeros(1 + MOST, np.int64),
        found=np.zeros(MOST, np.int64),
        floats=zeros((MOST, threads, FLOATS, widest)),
        outputs=outputs,
        flat_outputs=outputs.reshape(-1),
        logits=logits,
        flat_logits=logits.reshape(-1),
        attended=zeros((MOST, widest)),
        x=zeros((threads, MOST, widest)),
        x_tiles=zeros((threads, tiles, widest, HALF)),
        words=zeros((threads, tiles, widest // 4, HALF), np.int32),
        scales=zeros((threads, tiles, widest // BLOCK, HALF)),
        sums=zeros((threads, tiles, widest // BLOCK, HALF), np.int32),
        scratch=zeros((threads, padded(scratch)), np.uint8),
        highest=zeros((threads, MOST)),
        best=zeros((threads, MOST), np.int64),
    )


def dense_tables(tables: Tables) -> Tables:
    """The tables with no mask, and with outputs that are whole, as a pass computes them."""
    linears = tables.linears.copy()
    linears[:, LAYOUT], linears[:, OFFSET], linears[:, SELECTOR] = PANELS, -1, EVERYTHING
    return tables._replace(linears=linears)
