"""Neurons of an MLP from some rows of gate and up, in compiled code, the part of one thread."""

from typing import Any

from sparseact.engine.forward.projections import add_columns, take_shift
from sparseact.engine.forward.state import (
    ACTIVE,
    DOWN,
    GATE,
    MASKED,
    OUTPUT,
    ROWS,
    UP,
    X_SCALES,
    X_SUMS,
    Buffers,
    Sizes,
    Tables,
    X,
)
from sparseact.engine.kernels.activations import activate
from sparseact.engine.kernels.gemv_rows import dot_rows
from sparseact.engine.quant.arena import BIAS
from sparseact.engine.simd.jit import compiled


@compiled
def add_neurons(
    places: Any,
    part: int,
    first: int,
    last: int,
    count: int,
    thread: int,
    sizes: Sizes,
    tables: Tables,
    buffers: Buffers,
) -> None:
    """Compute the `count` neurons in `ACTIVE`, of first..last, and add up their columns of down, as a part's."""
    down, own = places[DOWN], buffers.floats[thread]
    h, up, masked, active = own[ROWS], own[OUTPUT], own[MASKED], buffers.integers[thread, ACTIVE]
    project_rows(places[GATE], count, thread, tables, buffers, h)
    activate(sizes.activation, h, count)
    if sizes.gated:
        project_rows(places[UP], count, thread, tables, buffers, up)
        for k in range(count):
            h[k] *= up[k]
    for k in range(count):
        masked[active[k]] = h[k]
    take_shift(down, masked, active, 0, count, tables)
    add_columns(down, first, last, count, thread, tables, buffers, buffers.outputs[DOWN, part])


@compiled
def project_rows(i: int, count: int, thread: int, tables: Tables, buffers: Buffers, y: Any) -> None:
    """y[k] = what linear `i` puts out for the k-th of the neurons in `ACTIVE`."""
    own, active = buffers.floats[thread], buffers.integers[thread, ACTIVE]
    codes, sums = buffers.codes[thread, 0], buffers.integers[thread, X_SUMS]
    dot_rows(tables.arena, tables.linears, i, active, 0, count, own[X], codes, own[X_SCALES], sums, y)
    bias = tables.linears[i, BIAS]
    if bias >= 0:
        for k in range(count):
            y[k] += tables.vectors[bias + active[k]]
    buffers.counts[thread, i] += count
