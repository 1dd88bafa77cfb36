"""The weights of a model in memory, as the compiled step wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparseact.engine.forward.entries import read_rows, unpack_transposed
from sparseact.engine.forward.state import padded
from sparseact.engine.quant.arena import Arena
from sparseact.models.formats import Array, Floats


@dataclass(frozen=True)
class Model:
    """Weights as the compiled step wants them.

    Attributes:
        arena: the linears.
        numbers: their numbers, by canonical name.
        vectors: norms, biases, learned positions, one after the other.
        offsets: where they begin, by canonical name.
    """

    arena: Arena
    numbers: Mapping[str, int]
    vectors: Floats
    offsets: Mapping[str, int]

    def vector(self, name: str, size: int) -> Floats:
        """A vector by name."""
        return self.vectors[self.offsets[name] :][:size]

    def weight(self, name: str, first: int = 0, last: int | None = None) -> Floats:
        """Rows `first` (a multiple of 64) to `last` of a linear as float32, a transposed view."""
        i = self.numbers[name]
        linear = self.arena.linears[i]
        last = linear.outputs if last is None else last
        out = np.empty((linear.inputs, padded(last - first)), np.float32)
        unpack_transposed(self.arena.data, self.arena.table, i, first, last, out)
        return out.T[: last - first]

    def rows(self, name: str, numbers: Sequence[int] | Array) -> Floats:
        """Some rows of a linear as float32."""
        i = self.numbers[name]
        out = np.empty((len(numbers), self.arena.linears[i].inputs), np.float32)
        read_rows(self.arena.data, self.arena.table, i, np.ascontiguousarray(numbers, np.int64), out)
        return out
