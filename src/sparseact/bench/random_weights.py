"""Weights without meaning, in the shape of a model: what a token costs where the real weights cannot be had.

A weight is s * q with a random q in -127..127 and one s per linear such that its variance is 1 / inputs, so that
activations stay of the size that the norms expect. Norms are 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

import numpy as np

from sparseact.errors import InputError
from sparseact.models.architecture import Architecture
from sparseact.models.formats import BLOCK, Floats, Quantised
from sparseact.models.tensor_names import Place
from sparseact.models.weights import Weights
from sparseact.utils.environment import available_bytes

WEIGHT_BYTES: Final = {"f32": 4.0, "bf16": 2.0, "q8": 1.0625, "q4": 0.625}
"""Of a weight of the engine at each type, scales and minimums included."""


@dataclass(frozen=True)
class RandomSource:
    """Tensors that are drawn where they are read, the same numbers each time. See `models.weights.Source`.

    Attributes:
        architecture: whose tensors they are, by canonical names.
        format: of the linears, q8 or q4m. The embedding and the head are q8.
        files: none.
    """

    architecture: Architecture
    format: str
    files: tuple[Path, ...] = ()

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor; there are no biases that a model may lack."""
        every = self.architecture.shapes
        return {name: shape for name, shape in every.items() if not self.architecture.optional(name)}

    def read(self, name: str, first: int, last: int) -> Floats | Quantised:
        """Rows `first` to `last` of a tensor."""
        shape = self.shapes[name]
        if len(shape) == 1:
            return np.full(last - first, not name.endswith("bias"), np.float32)
        blocks = -(-shape[1] // BLOCK)
        # A step of Philox's counter is 32 bytes, which is a block: any rows can be drawn without those before them.
        draws = np.random.Philox(key=crc32(name.encode())).advance(first * blocks)
        codes = draws.random_raw((last - first) * blocks * 4).view(np.int8).reshape(last - first, blocks * BLOCK)
        form = "q8" if name in {"embed", "head", "positions"} else self.format
        spread = 73.3 if form == "q8" else 4.61  # standard deviation of the codes
        scales = np.full((last - first, blocks), 1 / (spread * shape[1] ** 0.5), np.float16)
        if form == "q8":
            return Quantised("q8", shape[1], np.maximum(codes, -127), scales)
        return Quantised(form, shape[1], codes.view(np.uint8) & 15, scales, np.float16(-7.5) * scales)


def random_weights(architecture: Architecture, dtype: str) -> Weights:
    """Weights of a shape that the engine reads as those of a model, a tensor at a time.

    Args:
        architecture: the shape.
        dtype: the engine's type that they are for: f32, bf16, q8 or q4.

    Raises:
        InputError: there is no such type of random weights.
    """
    if dtype not in WEIGHT_BYTES:
        raise InputError(f"dtype: {dtype} is no type of random weights; they are {', '.join(WEIGHT_BYTES)}")
    source = RandomSource(architecture, "q4m" if dtype == "q4" else "q8")
    return Weights(architecture, {name: Place(name) for name in source.shapes}, source, {})


def check_memory(architecture: Architecture, dtype: str, copies: int) -> None:
    """Refuse what would not fit into memory.

    Raises:
        InputError: so many models of this shape need more than there is.
    """
    weights = sum(int(np.prod(shape)) for shape in architecture.shapes.values() if len(shape) == 2)
    needed, free = copies * weights * WEIGHT_BYTES[dtype], available_bytes()
    if free is not None and needed > 0.9 * free:
        raise InputError(
            f"shape: {copies} models of {weights / 1e9:.2f} billion weights take {needed / 1e9:.1f} GB at {dtype}, and "
            f"{free / 1e9:.1f} GB are free; take a smaller shape, or q4"
        )
