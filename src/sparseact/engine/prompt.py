"""Neurons that a prompt chooses for the tokens that follow it (GRIFFIN): their weights are copied together.

So they are read like a small dense matrix. Rows of gate and up are copied as they are, and columns of down where each
weight is a number of its own (f32, bf16). Where 32 inputs share a scale, columns that come from different blocks cannot
keep theirs: they are rounded anew, to 8 bits or better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparseact.engine.arena import CODES, MINS, SCALES
from sparseact.engine.formats import PANEL, Array, Floats, quantise
from sparseact.engine.gating import Gating
from sparseact.engine.loading import Model, joined
from sparseact.engine.tables import BY_PROMPT

ROWS = 256
"""Rows of which columns are taken at once, a multiple of 64."""


class PromptScores:
    """How much each neuron mattered over a prompt, noted while the prompt is read.

    The square of arXiv 2404.01365's ||[h_t / ||h_t||]_t||, as `policies.runtime.prompt_scores` has it.
    """

    def __init__(self) -> None:
        self.squares: dict[str, Floats] = {}

    def note(self, name: str, x: Floats, *_: Any) -> Floats:
        """Look at the input [tokens, inputs] of a linear, and give it back: a prompt runs dense."""
        if name.endswith(".down"):
            shares = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12))
            self.squares[name] = self.squares.get(name, np.float32(0)) + np.square(shares).sum(axis=0)
        return x

    def choose(self, gatings: Mapping[str, Gating], model: Model) -> None:
        """Choose each layer's neurons, and copy their weights to the linears whose names end in `.chosen`."""
        for down, gating in gatings.items():
            if gating.choice == BY_PROMPT:
                (neurons,) = gating.on(self.squares[down][None])[0].nonzero()
                for name in (down.replace("down", "gate"), down.replace("down", "up")):
                    if name in model.numbers:
                        copy_rows(model, name, neurons)
                copy_columns(model, down, neurons)


def copy_rows(model: Model, name: str, rows: Array) -> None:
    """Copy rows of a linear in panels to the linear `name`.chosen, which has as many; the biases too."""
    arena, source, target = model.arena, model.numbers[name], model.numbers[f"{name}.chosen"]
    shape, small = arena.linears[source].shape, arena.linears[target].shape
    sizes = (CODES, shape.codes, small.codes), (SCALES, shape.scales, small.scales), (MINS, shape.mins, small.mins)
    for field, size, room in sizes:
        if size:
            # Whatever the format, a panel is a list of 16 codes of 4 bytes, or 16 scales, one for each row.
            unit = np.uint32 if field == CODES else np.uint16
            read = arena.data[arena.table[source, field] :][:size].view(unit)
            picked = read.reshape(shape.padded_outputs // PANEL, -1, PANEL)[rows // PANEL, :, rows % PANEL]
            padded = np.zeros((small.padded_outputs, picked.shape[1]), unit)
            padded[: len(rows)] = picked
            panels = arena.data[arena.table[target, field] :][:room].view(unit).reshape(-1, picked.shape[1], PANEL)
            panels[:] = padded.reshape(len(panels), PANEL, -1).swapaxes(1, 2)
    if f"{name}.bias" in model.offsets:
        bias = model.vector(f"{name}.bias", arena.linears[source].outputs)
        model.vector(f"{name}.chosen.bias", len(rows))[:] = bias[rows]


def copy_columns(model: Model, name: str, columns: Array) -> None:
    """Copy columns of a linear in panels to the linear `name`.chosen, which has as many."""
    arena, source, target = model.arena, model.numbers[name], model.numbers[f"{name}.chosen"]
    linear, small = arena.linears[source], arena.linears[target]
    if linear.format not in {"f32", "bf16"}:
        pieces = range(0, linear.outputs, ROWS)
        some = (model.weight(name, first, min(first + ROWS, linear.outputs))[:, columns] for first in pieces)
        arena.store(target, joined([quantise(piece, small.format) for piece in some]))
        return
    # A panel is a list of vectors: 16 rows of one input in float32, of two inputs, in turn, in bfloat16.
    width, unit = (1, np.uint32) if linear.format == "f32" else (2, np.uint16)
    read, written = (
        arena.data[arena.table[i, CODES] :][: arena.linears[i].shape.codes]
        .view(unit)
        .reshape(-1, arena.linears[i].shape.padded_inputs // width, PANEL, width)
        for i in (source, target)
    )
    new = np.arange(len(columns))
    written[:, new // width, :, new % width] = read[:, columns // width, :, columns % width]
