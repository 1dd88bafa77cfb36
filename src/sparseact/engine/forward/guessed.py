"""The neurons of an MLP that the high planes of gate and up promise most of, in compiled code, the part of one thread.

Of weights in planes, a neuron's low planes and its column of down are one run of memory, read where it is on. Weights
of more than 8 bits have high planes beside them, and a neuron that is on is computed from its whole rows.
"""

from typing import Any

import numpy as np

from sparseact.engine.forward.projections import choose, input_share, take_shift
from sparseact.engine.forward.some_rows import add_neurons
from sparseact.engine.forward.state import (
    ACTIVE,
    DOWN,
    GATE,
    GATE_HIGH,
    MASKED,
    MASKED_SCALES,
    MASKED_SUMS,
    NEURONS,
    OUTPUT,
    ROWS,
    SCORES,
    UP,
    UP_HIGH,
    X_SCALES,
    X_SUMS,
    Buffers,
    Sizes,
    Tables,
)
from sparseact.engine.kernels.activations import activate
from sparseact.engine.kernels.axpy_columns import axpy_block
from sparseact.engine.kernels.gemv_planes import AHEAD, add_low, ask_ahead, dot_high, spread_input
from sparseact.engine.quant.activations import quantise_input
from sparseact.engine.quant.arena import BIAS, LAYOUT, PADDED_INPUTS, PADDED_OUTPUTS
from sparseact.engine.quant.layouts import PANEL, PLANES
from sparseact.engine.simd.jit import compiled
from sparseact.engine.threads import MEMBERS
from sparseact.models.formats import BLOCK


@compiled
def guessed_neurons(places: Any, dense: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """Guess the thread's neurons, choose among them, and add the columns of down of those that are on."""
    if tables.linears[places[GATE], LAYOUT] == PLANES:
        spread_input(buffers.codes[thread, 0], tables.linears[places[GATE], PADDED_INPUTS], buffers.codes[thread, 2])
    for part in range(thread, len(buffers.floats), buffers.control[MEMBERS]):
        _guessed_part(places, part, dense, thread, sizes, tables, buffers)


@compiled
def _guessed_part(
    places: Any, part: int, dense: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers
) -> None:
    down, own = places[DOWN], buffers.floats[thread]
    first, last = input_share(down, part, len(buffers.floats), tables)
    guess, up = own[NEURONS], own[ROWS]
    _look(places[GATE_HIGH], places[GATE], first, last, thread, tables, buffers, buffers.outputs[GATE, 0], guess)
    _look(places[UP_HIGH], places[UP], first, last, thread, tables, buffers, buffers.outputs[UP, 0], up)
    activate(sizes.activation, guess[first:], last - first)
    for j in range(first, last):
        guess[j] *= up[j]
    count = choose(down, guess, guess, first, last, thread, dense, 1, tables, buffers)
    if tables.linears[places[GATE], LAYOUT] == PLANES:
        _finish_planes(places, part, last, count, thread, sizes, tables, buffers)
    else:
        add_neurons(places, part, first, last, count, thread, sizes, tables, buffers)


@compiled
def _finish_planes(
    places: Any, part: int, last: int, count: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers
) -> None:
    """Add up the columns of down of the part's neurons that are on, computed from their low planes."""
    down, own = places[DOWN], buffers.floats[thread]
    buffers.counts[thread, down] += count
    y, masked = buffers.outputs[DOWN, part], own[MASKED]
    for j in range(tables.linears[down, PADDED_OUTPUTS]):
        y[j] = 0
    for j in range(last, (last + BLOCK - 1) // BLOCK * BLOCK):
        masked[j] = 0
    active, at = buffers.integers[thread, ACTIVE], 0
    for k in range(AHEAD):
        ask_ahead(tables.arena, tables.linears, places[GATE], active, k, count)
    while at < count:
        stop = at + 1
        while stop < count and active[stop] // BLOCK == active[at] // BLOCK:
            stop += 1
        _finish_block(places, at, stop, count, y, thread, sizes, tables, buffers)
        at = stop


@compiled
def _look(
    plane: int, i: int, first: int, last: int, thread: int, tables: Tables, buffers: Buffers, high: Any, guess: Any
) -> None:
    """high, guess[first:last] = outputs of linear `i` by its high plane, which is linear `plane`."""
    panels, end = first // PANEL, (last + PANEL - 1) // PANEL
    codes, scales, sums = buffers.codes[thread, 0], buffers.floats[thread, X_SCALES], buffers.integers[thread, X_SUMS]
    dot_high(tables.arena, tables.linears, plane, panels, end, codes, scales, sums, high, guess)
    bias = tables.linears[i, BIAS]
    if bias >= 0:
        for j in range(first, last):
            high[j] += tables.vectors[bias + j]
            guess[j] += tables.vectors[bias + j]


@compiled
def _finish_block(
    places: Any, at: int, stop: int, count: int, y: Any, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers
) -> None:
    """The neurons active[at:stop], all of one block of down: their low planes, then their columns, added to y."""
    down, own, active = places[DOWN], buffers.floats[thread], buffers.integers[thread, ACTIVE]
    h, up, masked, arena, linears = own[ROWS], own[OUTPUT], own[MASKED], tables.arena, tables.linears
    spread, g = buffers.codes[thread, 2], active[at] // BLOCK
    for k in range(at, stop):
        ask_ahead(arena, linears, places[GATE], active, k + AHEAD, count)
        h[k - at], up[k - at] = buffers.outputs[GATE, 0, active[k]], buffers.outputs[UP, 0, active[k]]
        add_low(arena, linears, places[GATE], active, k, k + 1, spread, own[X_SCALES], h[k - at :])
        add_low(arena, linears, places[UP], active, k, k + 1, spread, own[X_SCALES], up[k - at :])
    activate(sizes.activation, h, stop - at)
    for k in range(at, stop):
        masked[active[k]] = h[k - at] * up[k - at]
    take_shift(down, masked, active, at, stop, tables)
    codes, scales = buffers.codes[thread, 1], own[MASKED_SCALES]
    start, sums = g * BLOCK, buffers.integers[thread, MASKED_SUMS]
    quantise_input(masked[start:], BLOCK, codes[start:], scales[g:], sums[g:])
    starts, fours = buffers.accumulators[thread].view(np.int64), own[SCORES].view(np.int8)
    axpy_block(arena, linears, down, active, at, stop, codes, scales, starts, fours, y)
