"""What the compiled step reads and writes: sizes, weights and buffers as named tuples of numbers and arrays.

Numba takes named tuples apart when a function is called, so that compiled code has names for them and
no objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sparseact.engine.quant.arena import LAYOUT, PADDED_INPUTS
from sparseact.engine.quant.layouts import CACHE_LINE, COLUMNS
from sparseact.engine.threads import ARGUMENTS, new_control
from sparseact.models.architecture import Architecture, Norm
from sparseact.models.formats import Floats

PLACES = 31
"""Columns of the table of layers, int64 [layers, PLACES]; -1 for what a model does not have."""
(
    Q,  # numbers of linears
    K,
    V,
    O,  # noqa: E741 - as everyone calls it
    GATE,
    UP,
    DOWN,
    ATTENTION_NORM,  # element offsets in the vectors, as all norms
    ATTENTION_NORM_BIAS,
    MLP_NORM,
    MLP_NORM_BIAS,
    POST_ATTENTION_NORM,
    POST_MLP_NORM,
    INNER_ATTENTION_NORM,
    INNER_MLP_NORM,
    Q_NORM,
    K_NORM,
    ROTATION,  # row of the frequencies
    WINDOW,  # positions that a token sees, 0 for all
    CHOICE,  # what decides which inputs of down are on, as below
    CHOSEN_GATE,  # linears of the neurons that the prompt has chosen
    CHOSEN_UP,
    CHOSEN_DOWN,
    CHOSEN_Q,  # and of the heads
    CHOSEN_O,
    PREDICTOR_DOWN,  # linears of a predictor: to its rank, and to the neurons
    PREDICTOR_UP,
    GATE_HIGH,  # linears of the leading bits of gate and up
    UP_HIGH,
    ROUTER,  # linear from the MLP's input to blocks of neurons
    BLOCK_NEURONS,  # how many neurons a block of the router has; the last one may have fewer
) = range(PLACES)

BY_INPUT, BY_GATE, BY_UP, BY_PROMPT, BY_PREDICTOR, BY_GUESS, BY_ROUTER = range(7)
"""The inputs themselves; act(gate), then up is computed for those that are on; up, then gate is; the prompt, once
for all tokens after it; a low-rank guess from the MLP's input; act(gate) up by the high planes of both; a
router, of whole blocks of neurons that lie together."""

GIVEN, POSITION, DENSE, FOUND, SCREENED = (ARGUMENTS + i for i in range(5))
"""Words of the control array: the token and where it stands, 1 for a token that masks leave alone; the
token with the highest logit; 1 if that token is all that is wanted, and the head may be screened."""

PADDING = 64
"""Floats to which buffers and vectors are padded, with zeros: four vectors of 16."""


class Sizes(NamedTuple):
    """Numbers of an `Architecture`."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    neurons: int
    vocabulary: int
    rotary_dim: int
    layer_norm: int
    activation: int
    gated: int
    parallel: int
    qk_norm: int
    epsilon: Any  # float32, as the next five
    attention_scale: Any
    attention_softcap: Any
    final_softcap: Any
    embedding_scale: Any
    logit_scale: Any
    embed: int  # number of a linear, as the next
    head: int
    positions: int  # element offsets in the vectors, as the next two
    norm: int
    norm_bias: int
    screen: int  # numbers of linears, see screening.py; -1 for none
    screen_basis: int
    screen_mean: int  # element offset in the vectors


class Tables(NamedTuple):
    """What a step only reads."""

    arena: npt.NDArray[np.uint8]
    linears: npt.NDArray[np.int64]
    layers: npt.NDArray[np.int64]
    vectors: Floats
    thresholds: Floats  # the number of each linear's SELECTOR; those of the screen are factors of its margin
    frequencies: Floats
    rotation_scales: Floats  # of each kind of layer
    heads: npt.NDArray[np.int64]  # [layers, heads] that the prompt has chosen, ascending; the rest of a row is not read


FLOATS = 15
"""Rows of each thread's own floats."""
(
    RESIDUAL,
    X,  # input of a linear
    X_SCALES,  # of the blocks of X
    MASKED,  # input of a linear in columns, less its shift, 0 where it is off
    MASKED_SCALES,
    SCORES,  # of the inputs of a linear
    NEURONS,
    ROWS,  # products with some rows of up or gate
    OUTPUT,  # what attention or MLP add to the residual
    QUERY,
    KEPT,  # key or value
    HEAD_OUTPUT,  # what a head puts out
    COS,  # of each kind of layer, one after the other
    SIN,
    HIGHEST,  # the highest logit, and the highest one by the screen
) = range(FLOATS)

INTEGERS = 4
"""Rows of each thread's own integers."""
(
    X_SUMS,  # of the blocks of X
    MASKED_SUMS,
    ACTIVE,  # numbers of the inputs that are on
    TOKEN,  # that has the highest logit
) = range(INTEGERS)


class Buffers(NamedTuple):
    """What a step writes. What begins with [threads] is each thread's own, the rest is shared.

    Of a linear in columns the team's threads have a part of the sum each, also where fewer of them take part in a
    step and do several parts: so sums round alike, whoever takes part.
    """

    control: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]  # [threads, linears] inputs that were on, over all tokens; panels of a screened head
    keys: npt.NDArray[Any]  # [layers, kv_heads, positions, head_dim padded to 16], float32 or float16 as uint16
    values: npt.NDArray[Any]
    # [Q .. DOWN, parts, outputs] what linears put out; those in columns have a part for each thread.
    outputs: Floats
    logits: Floats  # [1, vocabulary]
    attended: Floats  # what the heads put out
    attention: Floats  # [threads, positions] weights of a head
    floats: Floats  # [threads, FLOATS, ...]
    integers: npt.NDArray[np.int32]  # [threads, INTEGERS, ...]
    codes: npt.NDArray[np.int8]  # [threads, 3, ...] X and MASKED, rounded, and X in the order of low planes
    accumulators: npt.NDArray[np.int32]  # [threads, ...] of a linear in columns


def padded(n: int) -> int:
    """The next multiple of `PADDING`."""
    return -(-n // PADDING) * PADDING


def sizes_of(architecture: Architecture, linears: Mapping[str, int], offsets: Mapping[str, int]) -> Sizes:
    """Sizes of a model; `linears` are the numbers of the linears, `offsets` those of the vectors, by canonical name."""
    a = architecture
    embed = linears["embed"]
    return Sizes(
        layers=a.layers,
        hidden=a.hidden,
        heads=a.heads,
        kv_heads=a.kv_heads,
        head_dim=a.head_dim,
        neurons=a.neurons,
        vocabulary=a.vocabulary,
        rotary_dim=a.rotary_dim,
        layer_norm=int(a.norm is not Norm.RMS),
        activation=int(a.activation),
        gated=int(a.gated),
        parallel=int(a.parallel),
        qk_norm=int(a.qk_norm),
        epsilon=np.float32(a.norm_epsilon),
        attention_scale=np.float32(a.attention_scale),
        attention_softcap=np.float32(a.attention_softcap),
        final_softcap=np.float32(a.final_softcap),
        embedding_scale=np.float32(a.embedding_scale),
        logit_scale=np.float32(a.logit_scale),
        embed=embed,
        head=linears.get("head", embed),
        positions=offsets.get("positions", -1),
        norm=offsets["norm"],
        norm_bias=offsets.get("norm.bias", -1),
        screen=linears.get("screen", -1),
        screen_basis=linears.get("screen.basis", -1),
        screen_mean=offsets.get("screen.mean", -1),
    )


def layers_of(
    architecture: Architecture, linears: Mapping[str, int], offsets: Mapping[str, int]
) -> npt.NDArray[np.int64]:
    """The table of layers."""
    table = np.full((architecture.layers, PLACES), -1, np.int64)
    norms = {
        ATTENTION_NORM: "attention_norm",
        ATTENTION_NORM_BIAS: "attention_norm.bias",
        MLP_NORM: "mlp_norm",
        MLP_NORM_BIAS: "mlp_norm.bias",
        POST_ATTENTION_NORM: "post_attention_norm",
        POST_MLP_NORM: "post_mlp_norm",
        INNER_ATTENTION_NORM: "inner_attention_norm",
        INNER_MLP_NORM: "inner_mlp_norm",
        Q_NORM: "q_norm",
        K_NORM: "k_norm",
    }
    extra = {
        CHOSEN_GATE: "gate.chosen",
        CHOSEN_UP: "up.chosen",
        CHOSEN_DOWN: "down.chosen",
        CHOSEN_Q: "q.chosen",
        CHOSEN_O: "o.chosen",
        PREDICTOR_DOWN: "predictor.down",
        PREDICTOR_UP: "predictor.up",
        GATE_HIGH: "gate.high",
        UP_HIGH: "up.high",
        ROUTER: "mlp.router",
    }
    for layer, row in enumerate(table):
        for place, name in zip((Q, K, V, O, GATE, UP, DOWN), ("q", "k", "v", "o", "gate", "up", "down"), strict=True):
            row[place] = linears.get(f"{layer}.{name}", -1)
        for place, name in extra.items():
            row[place] = linears.get(f"{layer}.{name}", -1)
        for place, name in norms.items():
            row[place] = offsets.get(f"{layer}.{name}", -1)
        if architecture.parallel and not architecture.parallel_norm:  # the MLP reads what the attention read
            row[MLP_NORM], row[MLP_NORM_BIAS] = row[ATTENTION_NORM], row[ATTENTION_NORM_BIAS]
        row[ROTATION] = architecture.layer_frequencies[layer] if architecture.rotary_dim else 0
        row[WINDOW] = architecture.windows[layer]
        row[CHOICE] = BY_INPUT
    return table


def buffers_of(
    architecture: Architecture,
    threads: int,
    table: npt.NDArray[np.int64],
    keys: npt.NDArray[Any],
    values: npt.NDArray[Any],
) -> Buffers:
    """Buffers for a team, for the linears of a table, with a key-value cache."""
    a = architecture
    parts = threads if (table[:, LAYOUT] == COLUMNS).any() else 1
    rotations = len(a.frequencies) * a.rotary_dim // 2
    # The head and the embedding have more outputs than any other; they have buffers of their own.
    widest = padded(max(a.hidden, a.heads * a.head_dim, a.neurons, rotations, int(table[:, PADDED_INPUTS].max())))
    return Buffers(
        control=new_control(threads),
        counts=zeros((threads, padded(len(table))), np.int64),
        keys=keys,
        values=values,
        outputs=zeros((DOWN + 1, parts, widest)),
        logits=zeros((1, padded(a.vocabulary))),
        attended=zeros((widest,)),
        attention=zeros((threads, padded(keys.shape[2] + 16))),
        floats=zeros((threads, FLOATS, widest)),
        integers=zeros((threads, INTEGERS, widest), np.int32),
        codes=zeros((threads, 3, widest), np.int8),
        accumulators=zeros((threads, widest), np.int32),
    )


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> npt.NDArray[Any]:
    """Zeros that begin at a cache line."""
    count = int(np.prod(shape))
    size = np.dtype(dtype).itemsize
    whole = np.zeros(count + CACHE_LINE // size, dtype)
    start = (-whole.ctypes.data % CACHE_LINE) // size
    return whole[start : start + count].reshape(shape)
