"""The MLP of a layer in compiled code, the part of one thread: all neurons, or those that a recipe switches on."""

from typing import Any

from sparseact.engine.activations import activate
from sparseact.engine.arena import BIAS
from sparseact.engine.cache import inner
from sparseact.engine.projections import add_columns, choose, gather, input_share, needs_all, project, round_input
from sparseact.engine.rows import dot_rows
from sparseact.engine.tables import (
    ACTIVE,
    BY_GATE,
    BY_INPUT,
    CHOICE,
    DOWN,
    GATE,
    MASKED,
    NEURONS,
    ROWS,
    SCALES,
    SUMS,
    UP,
    Buffers,
    Sizes,
    Tables,
    X,
)
from sparseact.engine.team import meet


@inner
def run_mlp(places: Any, dense: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """The thread's part of down(h) of the neurons h = act(gate(x)) * up(x), or act(gate(x))."""
    if places[CHOICE] == BY_INPUT:
        _all_neurons(places, dense, thread, sizes, tables, buffers)
    else:
        _neurons_by_one(places, dense, thread, sizes, tables, buffers)


@inner
def _all_neurons(places: Any, dense: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """All h; which of them down reads is left to their own size."""
    threads, neurons = sizes.threads, sizes.neurons
    project(places[GATE], thread, threads, dense, tables, buffers, buffers.outputs[GATE])
    if sizes.gated:
        project(places[UP], thread, threads, dense, tables, buffers, buffers.outputs[UP])
    meet(buffers.control, thread, threads)
    x = buffers.floats[thread, X]
    gather(places[GATE], 0, neurons, threads, tables, buffers.outputs[GATE], x)
    activate(sizes.activation, x, neurons)
    if sizes.gated:
        up = buffers.floats[thread, NEURONS]
        gather(places[UP], 0, neurons, threads, tables, buffers.outputs[UP], up)
        for j in range(neurons):
            x[j] *= up[j]
    round_input(neurons, thread, buffers)
    project(places[DOWN], thread, threads, dense, tables, buffers, buffers.outputs[DOWN])


@inner
def _neurons_by_one(places: Any, dense: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """The thread's neurons that act(gate), or up, switches on: their rows of the other one, and columns of down."""
    by_gate = places[CHOICE] == BY_GATE
    first_linear, other = (GATE, UP) if by_gate else (UP, GATE)
    threads, down, own = sizes.threads, places[DOWN], buffers.floats[thread]
    out = buffers.outputs[first_linear]
    project(places[first_linear], thread, threads, dense, tables, buffers, out)
    meet(buffers.control, thread, threads)
    first, last = input_share(down, thread, threads, tables)
    start, end = (0, sizes.neurons) if needs_all(down, tables) else (first, last)
    h, masked, active = own[NEURONS], own[MASKED], buffers.integers[thread, ACTIVE]
    gather(places[first_linear], start, end, threads, tables, out, h[start:])
    if by_gate:
        activate(sizes.activation, h[start:], end - start)
    count = choose(down, h, h, first, last, thread, dense, tables, buffers)
    products = own[ROWS]
    _project_rows(places[other], count, thread, tables, buffers, products)
    if not by_gate:
        activate(sizes.activation, products, count)
    for k in range(count):
        masked[active[k]] *= products[k]
    add_columns(down, first, last, count, thread, tables, buffers, buffers.outputs[DOWN, thread])


@inner
def _project_rows(i: int, count: int, thread: int, tables: Tables, buffers: Buffers, y: Any) -> None:
    """y[k] = what linear `i` puts out for the k-th of the neurons in `ACTIVE`."""
    own, active = buffers.floats[thread], buffers.integers[thread, ACTIVE]
    codes, sums = buffers.codes[thread, 0], buffers.integers[thread, SUMS]
    dot_rows(tables.arena, tables.linears, i, active, 0, count, own[X], codes, own[SCALES], sums, y)
    bias = tables.linears[i, BIAS]
    if bias >= 0:
        for k in range(count):
            y[k] += tables.vectors[bias + active[k]]
    buffers.counts[thread, i] += count
