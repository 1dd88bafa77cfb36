"""The blocks of neurons of an MLP that a router switches on, in compiled code, the part of one thread.

A block is a run of panels of gate and up, and a run of columns of down: each is read as a stream.
"""

from typing import Any

import numpy as np

from sparseact.engine.forward.meeting import meet
from sparseact.engine.forward.projections import add_columns, gather, project, share, take_shift
from sparseact.engine.forward.state import (
    ACTIVE,
    BLOCK_NEURONS,
    DOWN,
    GATE,
    MASKED,
    NEURONS,
    ROUTER,
    ROWS,
    SCORES,
    UP,
    X_SCALES,
    X_SUMS,
    Buffers,
    Sizes,
    Tables,
    X,
)
from sparseact.engine.kernels.activations import activate, sigmoid
from sparseact.engine.kernels.gemv_panels import dot_panels
from sparseact.engine.quant.arena import BIAS, OUTPUTS
from sparseact.engine.quant.layouts import CHUNK, PANEL
from sparseact.engine.simd.jit import compiled
from sparseact.engine.threads import MEMBERS


@compiled
def routed_neurons(places: Any, dense: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """Ask the router, compute the thread's share of the blocks that are on, and add their columns of down."""
    blocks = tables.linears[places[ROUTER], OUTPUTS]
    if dense == 0:
        _route(places[ROUTER], blocks, thread, tables, buffers)
    scores, limit, on = buffers.floats[thread, SCORES], tables.thresholds[places[DOWN]], 0
    for number in range(blocks):
        on += 1 if dense != 0 or scores[number] > limit else 0
    for part in range(thread, len(buffers.floats), buffers.control[MEMBERS]):
        _routed_part(places, blocks, on, part, dense, thread, sizes, tables, buffers)


@compiled
def _routed_part(
    places: Any,
    blocks: int,
    on: int,
    part: int,
    dense: int,
    thread: int,
    sizes: Sizes,
    tables: Tables,
    buffers: Buffers,
) -> None:
    """One part of the blocks that are on, which are `on`."""
    down, own, block = places[DOWN], buffers.floats[thread], places[BLOCK_NEURONS]
    scores, limit = own[SCORES], tables.thresholds[down]
    first, last = share(on, part, len(buffers.floats))
    masked, active = own[MASKED], buffers.integers[thread, ACTIVE]
    for j in range((sizes.neurons + CHUNK - 1) // CHUNK * CHUNK):
        masked[j] = np.float32(0)
    count = seen = 0
    for number in range(blocks):
        if dense != 0 or scores[number] > limit:
            if first <= seen < last:
                start, stop = number * block, min((number + 1) * block, sizes.neurons)
                _run_block(places, start, stop, thread, sizes, tables, buffers)
                for j in range(start, stop):
                    active[count] = j
                    count += 1
            seen += 1
    take_shift(down, masked, active, 0, count, tables)
    for place in (GATE, UP):
        if places[place] >= 0:
            buffers.counts[thread, places[place]] += count
    add_columns(down, 0, sizes.neurons, count, thread, tables, buffers, buffers.outputs[DOWN, part])


@compiled
def _route(router: int, blocks: int, thread: int, tables: Tables, buffers: Buffers) -> None:
    """Set the thread's scores[:blocks]."""
    threads = buffers.control[MEMBERS]
    project(router, thread, threads, 0, tables, buffers, buffers.outputs[GATE])
    meet(buffers.control, thread, threads)
    scores = buffers.floats[thread, SCORES]
    gather(router, 0, blocks, tables, buffers.outputs[GATE], scores)
    sigmoid(scores, blocks)


@compiled
def _run_block(places: Any, start: int, stop: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """masked[start:stop] = the neurons themselves."""
    own = buffers.floats[thread]
    h, up, masked = own[ROWS], own[NEURONS], own[MASKED]
    _rows_of_block(places[GATE], start, stop, thread, tables, buffers, h)
    activate(sizes.activation, h[start:], stop - start)
    if sizes.gated:
        _rows_of_block(places[UP], start, stop, thread, tables, buffers, up)
        for j in range(start, stop):
            h[j] *= up[j]
    for j in range(start, stop):
        masked[j] = h[j]


@compiled
def _rows_of_block(i: int, start: int, stop: int, thread: int, tables: Tables, buffers: Buffers, y: Any) -> None:
    """y[start:stop] = what linear `i` puts out for a block's neurons, whole panels."""
    own, codes, sums = buffers.floats[thread], buffers.codes[thread, 0], buffers.integers[thread, X_SUMS]
    first, last = start // PANEL, (stop + PANEL - 1) // PANEL
    dot_panels(tables.arena, tables.linears, i, first, last, own[X], codes, own[X_SCALES], sums, y)
    bias = tables.linears[i, BIAS]
    if bias >= 0:
        for j in range(start, stop):
            y[j] += tables.vectors[bias + j]
