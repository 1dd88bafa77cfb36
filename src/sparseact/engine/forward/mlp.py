"""The MLP of a layer in compiled code, the part of one thread: all neurons, or those that a recipe switches on."""

from typing import Any

from sparseact.engine.forward.guessed import guessed_neurons
from sparseact.engine.forward.meeting import meet
from sparseact.engine.forward.projections import (
    add_columns,
    choose,
    gather,
    input_share,
    needs_all,
    project,
    round_input,
    share,
    take_shift,
)
from sparseact.engine.forward.routed import routed_neurons
from sparseact.engine.forward.some_rows import add_neurons, project_rows
from sparseact.engine.forward.state import (
    ACTIVE,
    BY_GATE,
    BY_GUESS,
    BY_PREDICTOR,
    BY_ROUTER,
    BY_UP,
    CHOICE,
    CHOSEN_DOWN,
    CHOSEN_GATE,
    CHOSEN_UP,
    DOWN,
    GATE,
    INNER_MLP_NORM,
    MASKED,
    MASKED_SCALES,
    MASKED_SUMS,
    NEURONS,
    PREDICTOR_DOWN,
    PREDICTOR_UP,
    ROWS,
    UP,
    Buffers,
    Sizes,
    Tables,
    X,
)
from sparseact.engine.kernels.activations import activate, sigmoid
from sparseact.engine.kernels.gemv_panels import dot_panels
from sparseact.engine.kernels.norms import rms_norm
from sparseact.engine.quant.activations import quantise_input
from sparseact.engine.quant.arena import OUTPUTS, PADDED_OUTPUTS
from sparseact.engine.quant.layouts import CHUNK, PANEL
from sparseact.engine.simd.jit import compiled
from sparseact.engine.threads import MEMBERS


@compiled
def run_mlp(places: Any, dense: int | None, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """The thread's part of down(h) of the neurons h = act(gate(x)) * up(x), or act(gate(x))."""
    choice = places[CHOICE]
    if dense is None:
        _all_neurons(places[GATE], places[UP], places[DOWN], places, dense, thread, sizes, tables, buffers)
    elif choice == BY_PREDICTOR:
        _predicted_neurons(places, dense, thread, sizes, tables, buffers)
    elif choice == BY_GUESS:
        guessed_neurons(places, dense, thread, sizes, tables, buffers)
    elif choice == BY_ROUTER:
        routed_neurons(places, dense, thread, sizes, tables, buffers)
    elif choice in (BY_GATE, BY_UP):
        _neurons_by_one(places, dense, thread, sizes, tables, buffers)
    else:
        chosen = places[CHOSEN_DOWN] >= 0 and dense == 0
        gate = places[CHOSEN_GATE if chosen else GATE]
        up = places[CHOSEN_UP if chosen else UP]
        down = places[CHOSEN_DOWN if chosen else DOWN]
        _all_neurons(gate, up, down, places, dense, thread, sizes, tables, buffers)


@compiled
def _all_neurons(
    gate: int,
    up: int,
    down: int,
    places: Any,
    dense: int | None,
    thread: int,
    sizes: Sizes,
    tables: Tables,
    buffers: Buffers,
) -> None:
    """All h of these linears of the layer; which of them down reads is left to their own size."""
    threads, neurons = buffers.control[MEMBERS], tables.linears[gate, OUTPUTS]
    project(gate, thread, threads, dense, tables, buffers, buffers.outputs[GATE])
    if sizes.gated:
        project(up, thread, threads, dense, tables, buffers, buffers.outputs[UP])
    meet(buffers.control, thread, threads)
    x = buffers.floats[thread, X]
    gather(gate, 0, neurons, tables, buffers.outputs[GATE], x)
    activate(sizes.activation, x, neurons)
    if sizes.gated:
        other = buffers.floats[thread, NEURONS]
        gather(up, 0, neurons, tables, buffers.outputs[UP], other)
        for j in range(neurons):
            x[j] *= other[j]
    if places[INNER_MLP_NORM] >= 0:
        rms_norm(x, neurons, tables.vectors, places[INNER_MLP_NORM], sizes.epsilon, x)
    round_input(neurons, thread, buffers)
    project(down, thread, threads, dense, tables, buffers, buffers.outputs[DOWN])


@compiled
def _neurons_by_one(places: Any, dense: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """The thread's neurons that act(gate), or up, switches on: their rows of the other one, and columns of down."""
    by_gate = places[CHOICE] == BY_GATE
    first_linear, other = (GATE, UP) if by_gate else (UP, GATE)
    threads, parts = buffers.control[MEMBERS], len(buffers.floats)
    project(places[first_linear], thread, threads, dense, tables, buffers, buffers.outputs[first_linear])
    meet(buffers.control, thread, threads)
    for part in range(thread, parts, threads):
        _part_by_one(places, first_linear, other, part, dense, thread, sizes, tables, buffers)


@compiled
def _part_by_one(
    places: Any,
    first_linear: int,
    other: int,
    part: int,
    dense: int,
    thread: int,
    sizes: Sizes,
    tables: Tables,
    buffers: Buffers,
) -> None:
    """The neurons of one part, of which linear `first_linear` was computed."""
    down, own, by_gate = places[DOWN], buffers.floats[thread], first_linear == GATE
    first, last = input_share(down, part, len(buffers.floats), tables)
    start, end = (0, sizes.neurons) if needs_all(down, tables) else (first, last)
    h, masked, active = own[NEURONS], own[MASKED], buffers.integers[thread, ACTIVE]
    out = buffers.outputs[first_linear]
    gather(places[first_linear], start, end, tables, out, h[start:])
    if by_gate:
        activate(sizes.activation, h[start:], end - start)
    count = choose(down, h, h, first, last, thread, dense, 0, tables, buffers)
    products = own[ROWS]
    project_rows(places[other], count, thread, tables, buffers, products)
    if not by_gate:
        activate(sizes.activation, products, count)
    for k in range(count):
        masked[active[k]] *= products[k]
    take_shift(down, masked, active, 0, count, tables)
    add_columns(down, first, last, count, thread, tables, buffers, buffers.outputs[DOWN, part])


@compiled
def _predicted_neurons(places: Any, dense: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """The thread's neurons that a predictor switches on: their rows of gate and up, and columns of down."""
    if dense == 0:
        _predict(places, thread, sizes, tables, buffers, buffers.floats[thread, NEURONS])
    for part in range(thread, len(buffers.floats), buffers.control[MEMBERS]):
        _predicted_part(places, part, dense, thread, sizes, tables, buffers)


@compiled
def _predicted_part(
    places: Any, part: int, dense: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers
) -> None:
    """The neurons of one part, of which the scores are there."""
    down, own = places[DOWN], buffers.floats[thread]
    guess = own[NEURONS]
    first, last = input_share(down, part, len(buffers.floats), tables)
    count = choose(down, guess, guess, first, last, thread, dense, 0, tables, buffers)
    add_neurons(places, part, first, last, count, thread, sizes, tables, buffers)


@compiled
def _predict(places: Any, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers, guess: Any) -> None:
    """Set guess[:neurons] to the predictor's sigmoid(up(down(x)) + bias)."""
    down, up, threads = places[PREDICTOR_DOWN], places[PREDICTOR_UP], buffers.control[MEMBERS]
    project(down, thread, threads, 0, tables, buffers, buffers.outputs[GATE])
    meet(buffers.control, thread, threads)
    # The input stays where it is, for gate and up; the factor's own is rounded beside it.
    own, rank = buffers.floats[thread], tables.linears[down, OUTPUTS]
    x, scales, codes = own[MASKED], own[MASKED_SCALES], buffers.codes[thread, 1]
    sums = buffers.integers[thread, MASKED_SUMS]
    gather(down, 0, rank, tables, buffers.outputs[GATE], x)
    end = (rank + CHUNK - 1) // CHUNK * CHUNK
    for j in range(rank, end):
        x[j] = 0
    quantise_input(x, end, codes, scales, sums)
    first, last = share(tables.linears[up, PADDED_OUTPUTS] // PANEL, thread, threads)
    dot_panels(tables.arena, tables.linears, up, first, last, x, codes, scales, sums, buffers.outputs[UP, 0])
    meet(buffers.control, thread, threads)
    gather(up, 0, sizes.neurons, tables, buffers.outputs[UP], guess)
    sigmoid(guess, sizes.neurons)
