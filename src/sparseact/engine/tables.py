"""What the compiled step reads and writes: sizes, weights and buffers as named tuples of numbers and arrays.

Numba takes named tuples apart when a function is called, so that compiled code has names for them and
no objects.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sparseact.engine.architecture import Architecture, Norm
from sparseact.engine.formats import BLOCK, COLUMNS, Floats
from sparseact.engine.arena import INPUTS, LAYOUT, OUTPUTS, PADDED_INPUTS, PADDED_OUTPUTS
from sparseact.engine.team import new_control

PLACES = 18
"""Columns of the table of layers, int64 [layers, PLACES]; -1 for what a model does not have."""
(
    Q,  # numbers of linears
    K,
    V,
    O,
    GATE,
    UP,
    DOWN,
    ATTENTION_NORM,  # element offsets in the vectors, as all norms
    ATTENTION_NORM_BIAS,
    MLP_NORM,
    MLP_NORM_BIAS,
    POST_ATTENTION_NORM,
    POST_MLP_NORM,
    Q_NORM,
    K_NORM,
    ROTATION,  # row of the frequencies
    WINDOW,  # positions that a token sees, 0 for all
    CHOSEN_BY_GATE,  # 1: the inputs of down are on or off by act(gate), and up is computed for those that are on
) = range(PLACES)

LINE = 64
"""Floats to which buffers and vectors are padded, with zeros: four vectors of 16."""


class Sizes(NamedTuple):
    """Numbers of an `Architecture`, and of the team."""

    threads: int
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
    epsilon: Any  # float32, as the next four
    attention_scale: Any
    attention_softcap: Any
    final_softcap: Any
    embedding_scale: Any
    embed: int  # number of a linear, as the next
    head: int
    positions: int  # element offsets in the vectors, as the next two
    norm: int
    norm_bias: int


class Tables(NamedTuple):
    """What a step only reads."""

    arena: npt.NDArray[np.uint8]
    linears: npt.NDArray[np.int64]
    layers: npt.NDArray[np.int64]
    vectors: Floats
    thresholds: Floats  # one for each linear, see its SELECTOR
    frequencies: Floats


class Buffers(NamedTuple):
    """What a step writes. [threads, ...] is each thread's own; the other arrays are shared."""

    control: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]  # [threads, linears] inputs that were on, over all tokens
    keys: npt.NDArray[Any]  # [layers, kv_heads, positions, head_dim padded to 16], float32 or float16 as uint16
    values: npt.NDArray[Any]
    # What the linears put out: a row for each thread, of which only linears in columns use more than the first.
    q: Floats
    k: Floats
    v: Floats
    o: Floats
    gate: Floats
    up: Floats
    down: Floats
    logits: Floats
    attended: Floats  # what the heads put out
    best: Floats  # highest logit that each thread found, a line apart
    best_token: npt.NDArray[np.int64]
    # From here on each thread's own.
    residual: Floats
    x: Floats  # input of a linear
    codes: npt.NDArray[np.int8]  # the same quantised
    scales: Floats
    sums: npt.NDArray[np.int32]
    masked: Floats  # input of a linear in columns, less its shift, zero where it is off
    masked_codes: npt.NDArray[np.int8]
    masked_scales: Floats
    masked_sums: npt.NDArray[np.int32]
    active: npt.NDArray[np.int32]
    accumulators: npt.NDArray[np.int32]
    neurons: Floats
    rows: Floats  # products with some rows of up
    output: Floats  # what attention or MLP add to the residual
    heads: Floats  # query, key or value, output of a head, a line apart
    attention: Floats  # weights of the positions
    cos: Floats  # [threads, kinds of layers, rotary_dim / 2]
    sin: Floats


def padded(n: int) -> int:
    """The next multiple of a line."""
    return -(-n // LINE) * LINE


def sizes_of(
    architecture: Architecture, threads: int, linears: dict[str, int], offsets: dict[str, int]
) -> Sizes:
    """Sizes for a team; `linears` are the numbers of the linears, `offsets` those of the vectors, by canonical name."""
    a = architecture
    embed = linears["embed"]
    return Sizes(
        threads=threads,
        layers=a.layers,
        hidden=a.hidden,
        heads=a.heads,
        kv_heads=a.kv_heads,
        head_dim=a.head_dim,
        neurons=a.neurons,
        vocabulary=a.vocabulary,
        rotary_dim=a.rotary_dim,
        layer_norm=int(a.norm is Norm.LAYER),
        activation=int(a.activation),
        gated=int(a.gated),
        parallel=int(a.parallel),
        epsilon=np.float32(a.norm_epsilon),
        attention_scale=np.float32(a.attention_scale),
        attention_softcap=np.float32(a.attention_softcap),
        final_softcap=np.float32(a.final_softcap),
        embedding_scale=np.float32(a.embedding_scale),
        embed=embed,
        head=linears.get("head", embed),
        positions=offsets.get("positions", -1),
        norm=offsets["norm"],
        norm_bias=offsets.get("norm.bias", -1),
    )


def layers_of(architecture: Architecture, linears: dict[str, int], offsets: dict[str, int]) -> npt.NDArray[np.int64]:
    """The table of layers."""
    table = np.full((architecture.layers, PLACES), -1, np.int64)
    norms = {
        ATTENTION_NORM: "attention_norm",
        ATTENTION_NORM_BIAS: "attention_norm.bias",
        MLP_NORM: "mlp_norm",
        MLP_NORM_BIAS: "mlp_norm.bias",
        POST_ATTENTION_NORM: "post_attention_norm",
        POST_MLP_NORM: "post_mlp_norm",
        Q_NORM: "q_norm",
        K_NORM: "k_norm",
    }
    for layer, row in enumerate(table):
        for place, name in zip((Q, K, V, O, GATE, UP, DOWN), ("q", "k", "v", "o", "gate", "up", "down"), strict=True):
            row[place] = linears.get(f"{layer}.{name}", -1)
        for place, name in norms.items():
            row[place] = offsets.get(f"{layer}.{name}", -1)
        row[ROTATION] = architecture.layer_frequencies[layer] if architecture.rotary_dim else 0
        row[WINDOW] = architecture.windows[layer]
        row[CHOSEN_BY_GATE] = 0
    return table


def buffers_of(
    architecture: Architecture, threads: int, table: npt.NDArray[np.int64], keys: npt.NDArray[Any], values: npt.NDArray[Any]
) -> Buffers:
    """Buffers for a team, for the linears of a table, with a key-value cache."""
    a = architecture
    widest_input = padded(int(table[:, PADDED_INPUTS].max()))
    widest_output = padded(int(table[:, PADDED_OUTPUTS].max()))
    blocks = padded(widest_input // BLOCK)
    columns = bool((table[:, LAYOUT] == COLUMNS).any())
    parts = threads if columns else 1
    queries, keys_wide = a.heads * a.head_dim, a.kv_heads * a.head_dim
    kinds = max(1, len(a.frequencies))

    def own(*shape: int, dtype: Any = np.float32) -> npt.NDArray[Any]:
        return zeros((threads, *shape), dtype)

    return Buffers(
        control=new_control(threads),
        counts=own(padded(len(table)), dtype=np.int64),
        keys=keys,
        values=values,
        q=zeros((parts, padded(queries))),
        k=zeros((parts, padded(keys_wide))),
        v=zeros((parts, padded(keys_wide))),
        o=zeros((parts, padded(a.hidden))),
        gate=zeros((parts, padded(a.neurons))),
        up=zeros((parts, padded(a.neurons))),
        down=zeros((parts, padded(a.hidden))),
        logits=zeros((parts, padded(a.vocabulary))),
        attended=zeros((padded(queries),)),
        best=own(LINE),
        best_token=own(LINE, dtype=np.int64),
        residual=own(padded(a.hidden)),
        x=own(widest_input),
        codes=own(widest_input, dtype=np.int8),
        scales=own(blocks),
        sums=own(blocks, dtype=np.int32),
        masked=own(widest_input),
        masked_codes=own(widest_input, dtype=np.int8),
        masked_scales=own(blocks),
        masked_sums=own(blocks, dtype=np.int32),
        active=own(widest_input, dtype=np.int32),
        accumulators=own(widest_output, dtype=np.int32),
        neurons=own(padded(a.neurons)),
        rows=own(padded(a.neurons)),
        output=own(padded(a.hidden)),
        heads=own(3, padded(a.head_dim)),
        attention=own(padded(keys.shape[2] + 16)),
        cos=own(kinds, padded(a.rotary_dim // 2)),
        sin=own(kinds, padded(a.rotary_dim // 2)),
    )


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> npt.NDArray[Any]:
    """Zeros that begin at a cache line."""
    count = int(np.prod(shape))
    size = np.dtype(dtype).itemsize
    whole = np.zeros(count + LINE // size, dtype)
    start = (-whole.ctypes.data % LINE) // size
    return whole[start : start + count].reshape(shape)
