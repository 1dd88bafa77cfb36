"""One token through the whole model in one compiled call, run by all threads of a team at once.

Every thread runs `decode`. Small work (norms, rounding, activations) is repeated by each; linears and
heads are shared out, and the threads meet after each stage of which another one reads.
"""

from typing import Any

import numpy as np

from sparseact.engine.forward.meeting import begin_job, meet, next_job
from sparseact.engine.forward.mlp import run_mlp
from sparseact.engine.forward.projections import gather, project, project_long, round_input, share
from sparseact.engine.forward.screened_head import screened_head
from sparseact.engine.forward.state import (
    ATTENTION_NORM,
    ATTENTION_NORM_BIAS,
    CHOSEN_O,
    CHOSEN_Q,
    COS,
    DENSE,
    DOWN,
    FOUND,
    GIVEN,
    HEAD_OUTPUT,
    HIGHEST,
    INNER_ATTENTION_NORM,
    K_NORM,
    KEPT,
    MLP_NORM,
    MLP_NORM_BIAS,
    OUTPUT,
    POSITION,
    POST_ATTENTION_NORM,
    POST_MLP_NORM,
    Q_NORM,
    QUERY,
    RESIDUAL,
    ROTATION,
    ROWS,
    SCREENED,
    SIN,
    TOKEN,
    WINDOW,
    Buffers,
    K,
    O,
    Q,
    Sizes,
    Tables,
    V,
    X,
)
from sparseact.engine.kernels.activations import cap, rescale
from sparseact.engine.kernels.attention import angles, attend, remember, rotate
from sparseact.engine.kernels.norms import inverse_rms, layer_norm, rms_norm
from sparseact.engine.quant.arena import INPUTS, LAYOUT, OUTPUTS
from sparseact.engine.quant.dequant import read_row
from sparseact.engine.quant.layouts import CHUNK, COLUMNS, PANEL
from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.reduce import find_highest
from sparseact.engine.threads import MEMBERS
from sparseact.models.architecture import QKNorm

_ROTATED, _WHOLE = int(QKNorm.ROTATED), int(QKNorm.WHOLE)


@compiled
def run(masks: int | None, sizes: Sizes, tables: Tables, buffers: Buffers, thread: int) -> bool:
    """A thread's work: the leader (thread 0) does one step, a helper all steps until there are none for long.

    Args:
        masks: None where nothing is ever switched off and no head screened: a third of the code, compiled apart.
        sizes: numbers.
        tables: what is read.
        buffers: what is written.
        thread: number of the thread.

    Returns:
        False if the leader found a helper asleep: wake them and call again.
    """
    control = buffers.control
    if thread > 0:
        while next_job(control, thread):
            decode(masks, thread, sizes, tables, buffers)
        return False
    if not begin_job(control):
        return False
    decode(masks, thread, sizes, tables, buffers)
    choose_found(buffers)
    return True


@compiled
def choose_found(buffers: Buffers) -> None:
    """Of the threads' likeliest tokens the likeliest."""
    best = 0
    for other in range(1, buffers.control[MEMBERS]):
        highest, token = buffers.floats[other, HIGHEST, 0], buffers.integers[other, TOKEN, 0]
        first = highest == buffers.floats[best, HIGHEST, 0] and token < buffers.integers[best, TOKEN, 0]
        if first or highest > buffers.floats[best, HIGHEST, 0]:
            best = other
    buffers.control[FOUND] = buffers.integers[best, TOKEN, 0]


@compiled
def decode(masks: int | None, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """A thread's part of one step: the logits of the token in the control array, and the likeliest of them."""
    control, hidden = buffers.control, sizes.hidden
    threads = control[MEMBERS]
    position, dense = control[POSITION], masks if masks is None else control[DENSE]  # None, or a number
    residual, x = buffers.floats[thread, RESIDUAL], buffers.floats[thread, X]
    embed(control[GIVEN], position, sizes, tables, residual)
    cos, sin = buffers.floats[thread, COS], buffers.floats[thread, SIN]
    angles(position, tables.frequencies, tables.rotation_scales, sizes.rotary_dim // 2, cos, sin)
    for layer in range(sizes.layers):
        places = tables.layers[layer]
        chosen = 0 if dense is None else int(places[CHOSEN_O] >= 0 and dense == 0)
        q, o = places[CHOSEN_Q if chosen else Q], places[CHOSEN_O if chosen else O]
        norm(residual, places[ATTENTION_NORM], places[ATTENTION_NORM_BIAS], sizes, tables, x)
        round_input(hidden, thread, buffers)
        project(q, thread, threads, dense, tables, buffers, buffers.outputs[Q])
        project(places[K], thread, threads, dense, tables, buffers, buffers.outputs[K])
        project(places[V], thread, threads, dense, tables, buffers, buffers.outputs[V])
        meet(control, thread, threads)
        attend_heads(layer, position, chosen, thread, sizes, tables, buffers)
        meet(control, thread, threads)
        width = tables.linears[o, INPUTS]
        for j in range(width):
            x[j] = buffers.attended[j]
        if places[INNER_ATTENTION_NORM] >= 0:
            rms_norm(x, width, tables.vectors, places[INNER_ATTENTION_NORM], sizes.epsilon, x)
        round_input(width, thread, buffers)
        project(o, thread, threads, dense, tables, buffers, buffers.outputs[O])
        meet(control, thread, threads)
        if sizes.parallel:  # the MLP reads the residual that the attention read
            norm(residual, places[MLP_NORM], places[MLP_NORM_BIAS], sizes, tables, x)
            add_output(places[O], buffers.outputs[O], places[POST_ATTENTION_NORM], thread, sizes, tables, buffers)
        else:
            add_output(places[O], buffers.outputs[O], places[POST_ATTENTION_NORM], thread, sizes, tables, buffers)
            norm(residual, places[MLP_NORM], places[MLP_NORM_BIAS], sizes, tables, x)
        round_input(hidden, thread, buffers)
        run_mlp(places, dense, thread, sizes, tables, buffers)
        meet(control, thread, threads)
        add_output(places[DOWN], buffers.outputs[DOWN], places[POST_MLP_NORM], thread, sizes, tables, buffers)
    norm(residual, sizes.norm, sizes.norm_bias, sizes, tables, x)
    round_input(hidden, thread, buffers)
    if masks is not None and control[SCREENED]:
        screened_head(thread, sizes, tables, buffers)
    else:
        _head(dense, thread, sizes, tables, buffers)
    meet(control, thread, threads)


@compiled
def embed(token: int, position: int, sizes: Sizes, tables: Tables, x: Any) -> None:
    """Set x to the embedding of a token, scaled, and that of its position where those are learned."""
    read_row(tables.arena, tables.linears, sizes.embed, token, x)
    for j in range(sizes.hidden):
        x[j] *= sizes.embedding_scale
    if sizes.positions >= 0:
        row = sizes.positions + position * sizes.hidden
        for j in range(sizes.hidden):
            x[j] += tables.vectors[row + j]


@compiled
def norm(x: Any, weight: int, bias: int, sizes: Sizes, tables: Tables, y: Any) -> None:
    """The model's kind of norm; x itself where there is none."""
    if weight < 0:
        for j in range(sizes.hidden):
            y[j] = x[j]
    elif sizes.layer_norm:
        layer_norm(x, sizes.hidden, tables.vectors, weight, bias, sizes.epsilon, y)
    else:
        rms_norm(x, sizes.hidden, tables.vectors, weight, sizes.epsilon, y)


@compiled
def add_output(i: int, out: Any, post_norm: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """Add what linear `i` put out to the residual, normed before where the model does so."""
    y, residual = buffers.floats[thread, OUTPUT], buffers.floats[thread, RESIDUAL]
    gather(i, 0, sizes.hidden, tables, out, y)
    if post_norm >= 0:
        rms_norm(y, sizes.hidden, tables.vectors, post_norm, sizes.epsilon, y)
    for j in range(sizes.hidden):
        residual[j] += y[j]


@compiled
def attend_heads(
    layer: int, position: int, chosen: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers
) -> None:
    """The thread's heads: keys and values of the token into the cache, then attention into `attended`.

    The heads are all of them or, if `chosen` is 1, one after the other those that the prompt has chosen.
    """
    places = tables.layers[layer]
    size, q = sizes.head_dim, places[CHOSEN_Q if chosen else Q]
    own = buffers.floats[thread]
    query, out = own[QUERY], own[HEAD_OUTPUT]
    seen = position + 1 if places[WINDOW] == 0 else min(position + 1, places[WINDOW])
    count = tables.linears[q, OUTPUTS] // size
    first, last = share(count, thread, buffers.control[MEMBERS])
    if first < last:
        # Those that no head asks, too: a later prompt may. Threads that share a key head both write the same
        # row, so that neither waits for the other.
        before = -1 if first == 0 else _key_head(first - 1, layer, chosen, sizes, tables)
        start = min(before + 1, _key_head(first, layer, chosen, sizes, tables))
        end = sizes.kv_heads if last == count else _key_head(last - 1, layer, chosen, sizes, tables) + 1
        _remember_token(layer, position, start, end, thread, sizes, tables, buffers)
    scale = _whole_norm(q, Q, thread, sizes, tables, buffers)
    for k in range(first, last):
        shared = _key_head(k, layer, chosen, sizes, tables)
        keys, values = buffers.keys[layer, shared], buffers.values[layer, shared]
        at = k * size
        gather(q, at, at + size, tables, buffers.outputs[Q], query)
        _turn(query, at, scale, places[Q_NORM], places[ROTATION], thread, sizes, tables, buffers)
        for j in range(size):
            query[j] *= sizes.attention_scale
        start = position + 1 - seen
        weights = buffers.attention[thread]
        attend(query, keys, values, start, position + 1, size, sizes.attention_softcap, weights, out)
        for j in range(size):
            buffers.attended[at + j] = out[j]


@compiled
def _key_head(k: int, layer: int, chosen: int, sizes: Sizes, tables: Tables) -> int:
    """The key head of the k-th head that attends."""
    head = tables.heads[layer, k] if chosen else k
    return head // (sizes.heads // sizes.kv_heads)


@compiled
def _remember_token(
    layer: int, position: int, start: int, end: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers
) -> None:
    """The token's keys and values of the key heads start..end into the cache."""
    places, size, kept = tables.layers[layer], sizes.head_dim, buffers.floats[thread, KEPT]
    scale = _whole_norm(places[K], K, thread, sizes, tables, buffers)
    for head in range(start, end):
        at = head * size
        gather(places[K], at, at + size, tables, buffers.outputs[K], kept)
        _turn(kept, at, scale, places[K_NORM], places[ROTATION], thread, sizes, tables, buffers)
        remember(kept, size, buffers.keys[layer, head, position])
        gather(places[V], at, at + size, tables, buffers.outputs[V], kept)
        remember(kept, size, buffers.values[layer, head, position])


@compiled
def _whole_norm(i: int, place: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> Any:
    """The scale of the norm over all heads that linear `i` puts out, where the model has such a norm."""
    if sizes.qk_norm != _WHOLE:
        return np.float32(1)
    n, x = tables.linears[i, OUTPUTS], buffers.floats[thread, ROWS]
    gather(i, 0, n, tables, buffers.outputs[place], x)
    return inverse_rms(x, n, sizes.epsilon)


@compiled
def _turn(
    x: Any, at: int, scale: Any, norm: int, kind: int, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers
) -> None:
    """Norm and rotate a query or key, where the model does so.

    Args:
        x: the query or key.
        at: its first output of the linear.
        scale: of a norm over all heads, see `_whole_norm`.
        norm: where the weight of the norm is, -1 for none.
        kind: of the layer's rotation.
        thread, sizes, tables, buffers: as for `decode`.
    """
    if sizes.qk_norm == _WHOLE:
        for j in range(sizes.head_dim):
            x[j] *= scale * tables.vectors[norm + at + j]
    elif norm >= 0 and sizes.qk_norm != _ROTATED:
        rms_norm(x, sizes.head_dim, tables.vectors, norm, sizes.epsilon, x)
    half = sizes.rotary_dim // 2
    rotate(x, buffers.floats[thread, COS, kind * half :], buffers.floats[thread, SIN, kind * half :], half)
    if sizes.qk_norm == _ROTATED:
        rms_norm(x, sizes.head_dim, tables.vectors, norm, sizes.epsilon, x)


@compiled
def _head(dense: int | None, thread: int, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
    """The thread's logits, and the highest of them."""
    head, logits = sizes.head, buffers.logits[0]
    columns = dense is not None and tables.linears[head, LAYOUT] == COLUMNS
    unit = CHUNK if columns else PANEL
    threads = buffers.control[MEMBERS]
    first, last = share((sizes.vocabulary + unit - 1) // unit, thread, threads)
    first, last = first * unit, last * unit
    if dense is not None and columns:
        project_long(head, first, last, thread, dense, tables, buffers, logits)
    else:
        project(head, thread, threads, dense, tables, buffers, buffers.logits)
    last = min(last, sizes.vocabulary)
    gather(head, first, last, tables, buffers.logits, logits[first:])
    if sizes.logit_scale != 1:
        rescale(sizes.logit_scale, logits, first, last)
    if sizes.final_softcap > 0:
        cap(sizes.final_softcap, logits, first, last)
    token = find_highest(logits, first, last)
    buffers.floats[thread, HIGHEST, 0] = logits[token] if last > first else -np.float32(np.inf)
    buffers.integers[thread, TOKEN, 0] = token
