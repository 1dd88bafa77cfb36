"""What the high planes of linears say of many tokens, in NumPy but for the products: as the compiled step guesses."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sparseact.engine.forward.model import Model
from sparseact.engine.forward.prefill import Product
from sparseact.engine.quant.arena import SCALES
from sparseact.engine.quant.layouts import MIDDLE, PANEL
from sparseact.models.formats import BLOCK, Floats


@dataclass(frozen=True)
class HighPlanes:
    """The high planes of a model's linears.

    Attributes:
        model: some of whose linears have high planes.
        scales: of the linears that were guessed, [outputs, blocks], kept as float32 for the next prompt.
    """

    model: Model
    scales: dict[str, Floats] = field(default_factory=dict)

    def guess(self, product: Product, name: str, x: Floats) -> Floats:
        """What linear `name` puts out for x [tokens, inputs] with the low plane at its middle, without bias.

        A high plane's codes 0..15 count from -8 on (as q4 does), and 16 times.
        """
        if name not in self.scales:
            self.scales[name] = _scales(self.model, name)
        scales = self.scales[name]
        return 16 * product(f"{name}.high", x) + np.float32(MIDDLE) * (_block_sums(x, scales.shape[1]) @ scales.T)


def _scales(model: Model, name: str) -> Floats:
    """[outputs, blocks], which lie as those of panels."""
    i = model.numbers[f"{name}.high"]
    linear, start = model.arena.linears[i], int(model.arena.table[i, SCALES])
    blocks = linear.shape.padded_inputs // BLOCK
    held = model.arena.data[start:][: 2 * blocks * linear.shape.padded_outputs].view(np.float16)
    by_row = held.reshape(-1, blocks, PANEL).swapaxes(1, 2).reshape(-1, blocks)
    return by_row[: linear.outputs].astype(np.float32)


def _block_sums(x: Floats, blocks: int) -> Floats:
    """The sums of the inputs of each block [tokens, blocks], as they are rounded for products (`quantise_input`)."""
    by_block = np.pad(x, ((0, 0), (0, blocks * BLOCK - x.shape[1]))).reshape(len(x), blocks, BLOCK)
    size = np.abs(by_block).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), size, out=np.zeros_like(size), where=size > 0)
    rounded: Floats = np.rint(by_block * inverse).sum(-1) * (size[..., 0] / np.float32(127))
    return rounded
