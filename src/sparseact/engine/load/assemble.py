"""Everything that a step needs, put together from the weights, the gates of a recipe, and the size of the team."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparseact.engine.forward.gating import MADE_BY, Gating
from sparseact.engine.forward.model import Model
from sparseact.engine.forward.state import (
    BLOCK_NEURONS,
    BY_GATE,
    BY_GUESS,
    BY_INPUT,
    BY_PREDICTOR,
    BY_PROMPT,
    BY_ROUTER,
    BY_UP,
    CHOICE,
    Buffers,
    Sizes,
    Tables,
    buffers_of,
    layers_of,
    sizes_of,
)
from sparseact.engine.lm_head.fit import room_for_screen
from sparseact.engine.load.load_model import formats_of, linear_names, load_model
from sparseact.engine.quant.arena import FORMAT, GROUP, KEEP, OFFSET, SCALE, SELECTOR, SHIFT, Linear
from sparseact.errors import InputError
from sparseact.models.architecture import Architecture
from sparseact.models.formats import BLOCK, F32, Floats, Quantised, high_plane, quantise
from sparseact.models.weights import Weights
from sparseact.recipes.selection import Selection

SOME_ROWS = {BY_GATE: ("up",), BY_UP: ("gate",), BY_PREDICTOR: ("gate", "up"), BY_GUESS: ("gate", "up")}
"""The linears of which only the rows of neurons that are on are read, by what decides about these."""
GUESSED_TYPES = ("q8", "bf16", "f32")
"""Types whose leading 4 of 8 bits can be read: one of them, for all linears of an MLP."""
BYTES = {"f32": 4.0, "bf16": 2.0, "q8": 1.0, "q4": 0.5, "q4m": 0.5}
"""Of a weight in each format, scales aside."""


def load_gated(weights: Weights, dtype: str, gatings: Mapping[str, Gating], *, screen: bool = False) -> Model:
    """The weights in memory, in the layouts that the gates want, with the gates' vectors and predictors.

    Raises:
        InputError: an unknown dtype, or a damaged file.
    """
    formats = formats_of(weights, dtype)
    _need_8_bits(formats, gatings)
    weights = _in_blocks(weights, formats, gatings)
    layouts: dict[str, str] = {}
    extra: dict[str, Floats] = {}
    factors: dict[str, Floats] = {}
    added: list[Linear] = []
    guessed: dict[str, str] = {}  # linears of the neurons, with the one that reads these
    for name, gating in gatings.items():
        layer = name.partition(".")[0]
        if gating.choice == BY_PROMPT:
            added += _room_for_chosen(weights, formats, name, gating.selection)
            continue
        layouts[name] = "columns" if _gathers(gating, weights, name, formats[name]) else "panels"
        layouts |= {f"{layer}.{part}": "rows" for part in SOME_ROWS.get(gating.choice, ())}
        if gating.choice == BY_GUESS:
            guessed |= {f"{layer}.{part}": name for part in MADE_BY["down"]}
        if gating.scale is not None:
            extra[f"{name}.scale"] = gating.scale
        if gating.shift is not None:
            extra |= {f"{name}.shift": gating.shift, f"{name}.offset": np.zeros(weights.shape(name)[0], np.float32)}
        found, vectors = _of_predictor(gating, layer)
        factors, extra = factors | found, extra | vectors
    extra |= {f"{linear.name}.bias": np.zeros(linear.outputs, np.float32) for linear in added}
    exact = dtype if dtype in {"f32", "bf16"} else "q8"
    added += [Linear(name, exact, "panels", *factor.shape) for name, factor in factors.items()]
    if screen:
        spare, more = room_for_screen(weights.architecture)
        added += spare
        extra |= more
    beside = {name: reader for name, reader in guessed.items() if formats[name] == "q8"}
    layouts |= dict.fromkeys(beside, "planes")
    for name in guessed:
        outputs, inputs = weights.shape(name)
        part_of = name if name in beside else ""
        added.append(Linear(f"{name}.high", "q4", "panels", outputs, inputs, part_of=part_of))
    model = load_model(weights, formats, layouts, extra, added, beside)
    own = {name: quantise(factor, exact) for name, factor in factors.items()}
    own |= {f"{name}.high": high_plane(weights.floats(name)) for name in guessed if name not in beside}
    for name, value in own.items():
        model.arena.store(model.numbers[name], value)
    return model


def _of_predictor(gating: Gating, layer: str) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The linears of a gate's own predictor or router, and their vectors, by name."""
    if gating.router is not None:
        weight, bias = gating.router
        return {f"{layer}.mlp.router": weight}, {f"{layer}.mlp.router.bias": bias}
    if gating.predictor is not None:
        down, up, bias = gating.predictor
        return {f"{layer}.predictor.down": down, f"{layer}.predictor.up": up}, {f"{layer}.predictor.up.bias": bias}
    return {}, {}


def _in_blocks(weights: Weights, formats: dict[str, str], gatings: Mapping[str, Gating]) -> Weights:
    """The weights with the blocks of routers one after the other.

    Columns of down come from blocks of 32 that share a scale, and cannot keep theirs: 4 bits become 8, as rounding them
    anew would show.
    """
    orders = {}
    for name, gating in gatings.items():
        if gating.choice == BY_ROUTER:
            orders[name.partition(".")[0]] = gating.order
            if formats[name] in {"q4", "q4m"} and isinstance(weights.read(name, 0, 1), Quantised):
                formats[name] = "q8"
    return replace(weights, orders=orders)


def _need_8_bits(formats: Mapping[str, str], gatings: Mapping[str, Gating]) -> None:
    for name in (name for name, gating in gatings.items() if gating.choice == BY_GUESS):
        layer = name.partition(".")[0]
        found = {formats[part] for part in (name, *(f"{layer}.{part}" for part in MADE_BY["down"]))}
        if len(found) > 1 or not found.issubset(GUESSED_TYPES):
            raise InputError(
                f"dtype: the recipe reads the leading 4 of 8 bits, and these weights are {', '.join(sorted(found))}; "
                f"use {', '.join(GUESSED_TYPES[:-1])} or {GUESSED_TYPES[-1]}"
            )


def _room_for_chosen(weights: Weights, formats: Mapping[str, str], name: str, selection: Selection) -> list[Linear]:
    """Linears for some neurons or heads, the inputs of linear `name`, which the prompt chooses."""
    outputs, inputs = weights.shape(name)
    size = inputs // selection.group
    chosen = size * selection.keep
    layer, _, part = name.partition(".")
    rows = [
        Linear(f"{maker}.chosen", formats[maker], "panels", chosen, weights.shape(maker)[1])
        for maker in (f"{layer}.{short}" for short in MADE_BY[part])
        if maker in weights
    ]
    form = formats[name]
    # Columns of different blocks are rounded anew; to 4 bits, that would show.
    form = "q8" if form in {"q4", "q4m"} and size % BLOCK else form
    return [*rows, Linear(f"{name}.chosen", form, "panels", outputs, chosen)]


def _gathers(gating: Gating, weights: Weights, name: str, form: str) -> bool:
    """Whether reading the columns that are on takes less time than a stream of all weights.

    Processors fetch a stream ahead by themselves; what is read out of order waits for memory. A column of n bytes was
    seen to take the time of 1.35 n + 450 bytes of a stream (SmolLM2 at 40 and 50%, one and two threads: 576 bytes pay
    from a level of .53 on, 1536 from .39, 3072 from .33). The columns of a head are streams, eight at a time, and take
    that of 1.5 n bytes (Gemma 3's at a density of .8 and .5: 1.21 and .77 of all in 8 bits; 49,152 rows: 1.29 and .85).
    """
    column = weights.shape(name)[0] * BYTES[form]
    cost = 1.5 * column if name == weights.architecture.head else 1.35 * column + 450
    return gating.choice != BY_INPUT or (1 - gating.level) * cost < column


def assemble(
    model: Model, architecture: Architecture, gatings: Mapping[str, Gating], *, threads: int, context: int
) -> tuple[Sizes, Tables, Buffers]:
    """What the compiled step reads and writes; the gates are written into the model's table."""
    table = model.arena.table
    layers = layers_of(architecture, model.numbers, model.offsets)
    thresholds = np.zeros(len(table), np.float32)
    for name, gating in gatings.items():
        if gating.choice == BY_PROMPT:  # what is chosen has linears of its own
            continue
        i = model.numbers[name]
        if gating.choice != BY_INPUT:
            layers[int(name.split(".")[0]), [CHOICE, BLOCK_NEURONS]] = gating.choice, gating.block
        table[i, SELECTOR] = gating.selection.rule
        table[i, GROUP], table[i, KEEP] = gating.selection.group, gating.selection.keep
        thresholds[i] = gating.selection.number
        table[i, SCALE] = model.offsets.get(f"{name}.scale", -1)
        table[i, SHIFT] = model.offsets.get(f"{name}.shift", -1)
        table[i, OFFSET] = model.offsets.get(f"{name}.offset", -1)
        if gating.shift is not None:  # with the weights as they are stored
            offset = model.weight(name) @ gating.shift
            model.vector(f"{name}.offset", len(offset))[:] = offset
    kinds = max(1, len(architecture.frequencies))
    frequencies = np.asarray(architecture.frequencies, np.float32).reshape(kinds, architecture.rotary_dim // 2)
    scales = np.asarray(architecture.rotation_scales or (1,) * kinds, np.float32)
    heads = np.zeros((architecture.layers, architecture.heads), np.int64)
    tables = Tables(model.arena.data, table, layers, model.vectors, thresholds, frequencies, scales, heads)
    own = [model.numbers[name] for name in linear_names(architecture, model.numbers)]
    exact = bool((table[own, FORMAT] == F32).all())
    keys, values = (_cache_memory(architecture, context, np.float32 if exact else np.uint16) for _ in range(2))
    buffers = buffers_of(architecture, threads, table, keys, values)
    return sizes_of(architecture, model.numbers, model.offsets), tables, buffers


def _cache_memory(architecture: Architecture, context: int, dtype: Any) -> npt.NDArray[Any]:
    """[layers, kv_heads, context, head_dim padded to 16] zeros; the system gives memory where something is written."""
    shape = (architecture.layers, architecture.kv_heads, context, -(-architecture.head_dim // 16) * 16)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # one position of a head would take a whole one
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
