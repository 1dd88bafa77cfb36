"""Neurons and heads that a prompt chooses for the tokens that follow it (GRIFFIN): their weights are copied together.

So they are read like a small dense matrix. Rows of gate, up and q are copied as they are; columns of o too where a head
is whole blocks of 32, and all columns where each weight is a number of its own (f32, bf16). Other columns come from
blocks whose 32 inputs share a scale, and cannot keep theirs: they are rounded anew, to 8 bits or better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sparseact.engine.forward.gating import MADE_BY, Gating
from sparseact.engine.forward.model import Model
from sparseact.engine.forward.state import BY_PROMPT
from sparseact.engine.quant.arena import CODES, MINS, SCALES
from sparseact.engine.quant.layouts import PANEL
from sparseact.models.formats import BLOCK, Array, Floats, joined, quantise

ROWS_AT_ONCE = 256
"""Rows of which columns are taken at once, a multiple of 64."""


class PromptScores:
    """How much each neuron or head mattered over a prompt, noted while the prompt is read.

    The square of arXiv 2404.01365's ||[h_t / ||h_t||]_t||, as `masked.apply.prompt_scores` has it. A head is as
    large as the norm of what it puts out.
    """

    def __init__(self, gatings: Mapping[str, Gating], before: PromptScores | None = None) -> None:
        """before: of the part of the prompt that was read already."""
        self.gatings = {name: gating for name, gating in gatings.items() if gating.choice == BY_PROMPT}
        self.squares: dict[str, Floats] = {} if before is None else dict(before.squares)

    def note(self, name: str, x: Floats, *_: Any) -> Floats:
        """Look at the input [tokens, inputs] of a linear, and give it back: a prompt runs dense."""
        if name in self.gatings:
            units = self.gatings[name].selection.group
            shares = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12))
            squares = np.square(shares).sum(axis=0).reshape(units, -1).sum(axis=1)
            self.squares[name] = self.squares.get(name, np.float32(0)) + squares
        return x

    def choose(self, model: Model, heads: npt.NDArray[np.int64]) -> None:
        """Choose each layer's neurons and heads, and copy their weights to the linears whose names end in `.chosen`.

        The numbers of the heads go into the rows of `heads` [layers, heads].
        """
        for name, gating in self.gatings.items():
            (units,) = gating.on(self.squares[name][None].copy())[0].nonzero()
            layer, _, part = name.partition(".")
            if part == "o":
                heads[int(layer), : len(units)] = units
            size = model.arena.linears[model.numbers[name]].inputs // gating.selection.group
            inputs = (units[:, None] * size + np.arange(size)).reshape(-1)
            for maker in (f"{layer}.{short}" for short in MADE_BY[part]):
                if maker in model.numbers:
                    copy_rows(model, maker, inputs)
            if size % BLOCK == 0:
                copy_blocks(model, name, inputs[::BLOCK] // BLOCK)
            else:
                copy_columns(model, name, inputs)


def copy_rows(model: Model, name: str, rows: Array) -> None:
    """Copy rows of a linear in panels to the linear `name`.chosen, which has as many; the biases too."""
    for read, written in _parts(model, name):
        picked = read[rows // PANEL, :, rows % PANEL]
        padded = np.zeros((len(written) * PANEL, picked.shape[1]), picked.dtype)
        padded[: len(rows)] = picked
        written[:] = padded.reshape(len(written), PANEL, -1).swapaxes(1, 2)
    if f"{name}.bias" in model.offsets:
        bias = model.vector(f"{name}.bias", model.arena.linears[model.numbers[name]].outputs)
        model.vector(f"{name}.chosen.bias", len(rows))[:] = bias[rows]


def copy_blocks(model: Model, name: str, blocks: Array) -> None:
    """Copy blocks of 32 columns of a linear in panels to the linear `name`.chosen, which has as many."""
    for read, written in _parts(model, name):
        size = written.shape[1] // len(blocks)
        written.reshape(len(written), -1, size, PANEL)[:] = read.reshape(len(read), -1, size, PANEL)[:, blocks]


def copy_columns(model: Model, name: str, columns: Array) -> None:
    """Copy columns of a linear in panels to the linear `name`.chosen, which has as many."""
    arena, source, target = model.arena, model.numbers[name], model.numbers[f"{name}.chosen"]
    linear, small = arena.linears[source], arena.linears[target]
    if linear.format not in {"f32", "bf16"}:
        pieces = range(0, linear.outputs, ROWS_AT_ONCE)
        some = (model.weight(name, first, min(first + ROWS_AT_ONCE, linear.outputs))[:, columns] for first in pieces)
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


def _parts(model: Model, name: str) -> Iterator[tuple[Array, Array]]:
    """Codes, scales and minimums of a linear in panels, and those of its `.chosen`: each [panels, numbers, 16 rows]."""
    arena, source, target = model.arena, model.numbers[name], model.numbers[f"{name}.chosen"]
    shape, small = arena.linears[source].shape, arena.linears[target].shape
    sizes = (CODES, shape.codes, small.codes), (SCALES, shape.scales, small.scales), (MINS, shape.mins, small.mins)
    for field, size, count in sizes:
        if size:
            # Whatever the format, a panel is a list of 16 codes of 4 bytes, or 16 scales, one for each row.
            unit = np.uint32 if field == CODES else np.uint16
            read = arena.data[arena.table[source, field] :][:size].view(unit)
            written = arena.data[arena.table[target, field] :][:count].view(unit)
            yield (
                read.reshape(shape.padded_outputs // PANEL, -1, PANEL),
                written.reshape(small.padded_outputs // PANEL, -1, PANEL),
            )
