"""Several tokens through the whole model in one compiled call, densely: what checks the tokens of a sparse draft.

Weights are read once for all tokens, in whichever layout they are. All else is the decode step's own code, token by
token, so that a token's logits are those of a dense step, bit by bit.
"""

from typing import Any

import numpy as np

from sparseact.engine.forward.batch import Batch
from sparseact.engine.forward.meeting import begin_job, meet, next_job
from sparseact.engine.forward.projections import gather, share
from sparseact.engine.forward.state import (
    ATTENTION_NORM,
    ATTENTION_NORM_BIAS,
    COS,
    DOWN,
    GATE,
    INNER_ATTENTION_NORM,
    INNER_MLP_NORM,
    MLP_NORM,
    MLP_NORM_BIAS,
    NEURONS,
    POSITION,
    POST_ATTENTION_NORM,
    POST_MLP_NORM,
    RESIDUAL,
    SIN,
    UP,
    X_SCALES,
    X_SUMS,
    Buffers,
    K,
    O,
    Q,
    Sizes,
    Tables,
    V,
)
from sparseact.engine.forward.step import add_output, attend_heads, choose_found, decode, embed, norm
from sparseact.engine.kernels.activations import activate, cap, rescale
from sparseact.engine.kernels.attention import angles
from sparseact.engine.kernels.gemm import dot_tiles, tile_inputs
from sparseact.engine.kernels.norms import rms_norm
from sparseact.engine.quant.arena import FORMAT, OUTPUTS
from sparseact.engine.quant.layouts import CHUNK, HALF
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.reduce import find_highest
from sparseact.engine.threads import MEMBERS
from sparseact.models.formats import BF16, F32


@compiled
def run_verifying(sizes: Sizes, tables: Tables, dense: Tables, buffers: Buffers, batch: Batch, thread: int) -> bool:
    """As `step.run`, for two kinds of jobs: a decode step, or a pass where batch.tokens says how many tokens.

    `dense` are the `dense_tables`.
    """
    control = buffers.control
    if thread > 0:
        while next_job(control, thread):
            _work(thread, sizes, tables, dense, buffers, batch)
        return False
    if not begin_job(control):
        return False
    _work(thread, sizes, tables, dense, buffers, batch)
    if batch.tokens[0] == 0:
        choose_found(buffers)
    for token in range(batch.tokens[0]):
        best = 0
        for other in range(1, control[MEMBERS]):
            if batch.highest[other, token] > batch.highest[best, token]:
                best = other
        batch.found[token] = batch.best[best, token]
    return True


@compiled
def _work(thread: int, sizes: Sizes, tables: Tables, dense: Tables, buffers: Buffers, batch: Batch) -> None:
    if batch.tokens[0] == 0:
        decode(0, thread, sizes, tables, buffers)
    else:
        _verify(thread, sizes, tables, dense, buffers, batch)


@compiled
def _of_token(token: int, buffers: Buffers, batch: Batch) -> Buffers:
    """The buffers of a step that runs one token of the pass."""
    return Buffers(
        buffers.control,
        buffers.counts,
        buffers.keys,
        buffers.values,
        batch.outputs[token],
        buffers.logits,
        batch.attended[token],
        buffers.attention,
        batch.floats[token],
        buffers.integers,
        buffers.codes,
        buffers.accumulators,
    )


@compiled
def _verify(thread: int, sizes: Sizes, tables: Tables, dense: Tables, buffers: Buffers, batch: Batch) -> None:
    """`step.decode` for several tokens, without masks."""
    control, count = buffers.control, batch.tokens[0]
    threads = control[MEMBERS]
    position = control[POSITION]
    for t in range(count):
        own = batch.floats[t, thread]
        embed(batch.tokens[1 + t], position + t, sizes, tables, own[RESIDUAL])
        angles(position + t, tables.frequencies, tables.rotation_scales, sizes.rotary_dim // 2, own[COS], own[SIN])
    for layer in range(sizes.layers):
        places = tables.layers[layer]
        _norms(places[ATTENTION_NORM], places[ATTENTION_NORM_BIAS], thread, sizes, tables, batch)
        _tile(sizes.hidden, thread, tables, buffers, batch)
        for place in (Q, K, V):
            _project(places[place], place, thread, threads, tables, batch)
        meet(control, thread, threads)
        for t in range(count):
            attend_heads(layer, position + t, 0, thread, sizes, dense, _of_token(t, buffers, batch))
        meet(control, thread, threads)
        _attended(places[INNER_ATTENTION_NORM], thread, sizes, tables, batch)
        _tile(sizes.heads * sizes.head_dim, thread, tables, buffers, batch)
        _project(places[O], O, thread, threads, tables, batch)
        meet(control, thread, threads)
        if sizes.parallel:  # the MLP reads the residual that the attention read
            _norms(places[MLP_NORM], places[MLP_NORM_BIAS], thread, sizes, tables, batch)
        _add_outputs(places[O], O, places[POST_ATTENTION_NORM], thread, sizes, dense, buffers, batch)
        if not sizes.parallel:
            _norms(places[MLP_NORM], places[MLP_NORM_BIAS], thread, sizes, tables, batch)
        _mlp(places, thread, sizes, tables, dense, buffers, batch)
        meet(control, thread, threads)
        _add_outputs(places[DOWN], DOWN, places[POST_MLP_NORM], thread, sizes, dense, buffers, batch)
    _norms(sizes.norm, sizes.norm_bias, thread, sizes, tables, batch)
    _tile(sizes.hidden, thread, tables, buffers, batch)
    _head(thread, sizes, tables, dense, buffers, batch)
    meet(control, thread, threads)


@compiled
def _norms(weight: int, bias: int, thread: int, sizes: Sizes, tables: Tables, batch: Batch) -> None:
    for t in range(batch.tokens[0]):
        norm(batch.floats[t, thread, RESIDUAL], weight, bias, sizes, tables, batch.x[thread, t])


@compiled
def _attended(inner_norm: int, thread: int, sizes: Sizes, tables: Tables, batch: Batch) -> None:
    width = sizes.heads * sizes.head_dim
    for t in range(batch.tokens[0]):
        x = batch.x[thread, t]
        for j in range(width):
            x[j] = batch.attended[t, j]
        if inner_norm >= 0:
            rms_norm(x, width, tables.vectors, inner_norm, sizes.epsilon, x)


@compiled
def _add_outputs(
    i: int, place: int, post_norm: int, thread: int, sizes: Sizes, dense: Tables, buffers: Buffers, batch: Batch
) -> None:
    for t in range(batch.tokens[0]):
        add_output(i, batch.outputs[t, place], post_norm, thread, sizes, dense, _of_token(t, buffers, batch))


@compiled
def _tile(n: int, thread: int, tables: Tables, buffers: Buffers, batch: Batch) -> None:
    """Make the first n numbers of each token's x the input of the next linears."""
    count, end = batch.tokens[0], (n + CHUNK - 1) // CHUNK * CHUNK
    floats = integers = False
    for i in range(tables.linears.shape[0]):
        form = tables.linears[i, FORMAT]
        floats, integers = floats or form in (F32, BF16), integers or form not in (F32, BF16)
    for t in range(count):
        x = batch.x[thread, t]
        for j in range(n, end):
            x[j] = np.float32(0)
        if floats:
            for j in range(end):
                batch.x_tiles[thread, t // HALF, j, t % HALF] = x[j]
    if integers:
        words, scales, sums = batch.words[thread], batch.scales[thread], batch.sums[thread]
        codes, own_scales = buffers.codes[thread, 0], buffers.floats[thread, X_SCALES]
        tile_inputs(
            batch.x[thread], count, end, words, scales, sums, codes, own_scales, buffers.integers[thread, X_SUMS]
        )


@compiled
def _project(i: int, place: int, thread: int, threads: int, tables: Tables, batch: Batch) -> None:
    """The thread's rows of linear `i`, for each token, into its outputs at `place`."""
    width = batch.outputs.shape[3]
    _multiply(i, thread, threads, tables, batch, batch.flat_outputs, place * width, (DOWN + 1) * width)


@compiled
def _multiply(i: int, thread: int, threads: int, tables: Tables, batch: Batch, y: Any, start: int, stride: int) -> None:
    first, last = _chunks(i, thread, threads, tables)
    tiles = (batch.tokens[0] + HALF - 1) // HALF
    x, words = batch.x_tiles[thread, :tiles], batch.words[thread, :tiles]
    scales, sums, scratch = batch.scales[thread, :tiles], batch.sums[thread, :tiles], batch.scratch[thread]
    dot_tiles(tables.arena, tables.linears, i, first, last, x, words, scales, sums, scratch, y, start, stride)


@compiled
def _chunks(i: int, thread: int, threads: int, tables: Tables) -> tuple[int, int]:
    """The thread's chunks of 64 rows of linear `i`."""
    return share((tables.linears[i, OUTPUTS] + CHUNK - 1) // CHUNK, thread, threads)


@compiled
def _mlp(places: Any, thread: int, sizes: Sizes, tables: Tables, dense: Tables, buffers: Buffers, batch: Batch) -> None:
    """The neurons h = act(gate(x)) * up(x), or act(gate(x)); then the thread's part of down(h)."""
    threads, neurons = buffers.control[MEMBERS], sizes.neurons
    _tile(sizes.hidden, thread, tables, buffers, batch)
    _project(places[GATE], GATE, thread, threads, tables, batch)
    if sizes.gated:
        _project(places[UP], UP, thread, threads, tables, batch)
    meet(buffers.control, thread, threads)
    for t in range(batch.tokens[0]):
        x, outputs = batch.x[thread, t], batch.outputs[t]
        gather(places[GATE], 0, neurons, dense, outputs[GATE], x)
        activate(sizes.activation, x, neurons)
        if sizes.gated:
            up = batch.floats[t, thread, NEURONS]
            gather(places[UP], 0, neurons, dense, outputs[UP], up)
            for j in range(neurons):
                x[j] *= up[j]
        if places[INNER_MLP_NORM] >= 0:
            rms_norm(x, neurons, tables.vectors, places[INNER_MLP_NORM], sizes.epsilon, x)
    _tile(neurons, thread, tables, buffers, batch)
    _project(places[DOWN], DOWN, thread, threads, tables, batch)


@compiled
def _head(thread: int, sizes: Sizes, tables: Tables, dense: Tables, buffers: Buffers, batch: Batch) -> None:
    """The thread's logits of each token, and the highest of them."""
    head, threads = sizes.head, buffers.control[MEMBERS]
    _multiply(head, thread, threads, tables, batch, batch.flat_logits, 0, batch.logits.shape[1])
    first, last = _chunks(head, thread, threads, tables)
    first, last = first * CHUNK, min(last * CHUNK, sizes.vocabulary)
    for t in range(batch.tokens[0]):
        logits = batch.logits[t]
        gather(head, first, last, dense, batch.logits[t : t + 1], logits[first:])
        if sizes.logit_scale != 1:
            rescale(sizes.logit_scale, logits, first, last)
        if sizes.final_softcap > 0:
            cap(sizes.final_softcap, logits, first, last)
        token = find_highest(logits, first, last)
        batch.highest[thread, t] = logits[token] if last > first else -np.float32(np.inf)
        batch.best[thread, t] = token
