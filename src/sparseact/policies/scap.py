"""SCAP: score = |x - mode|, a threshold per linear input; what is off is worth its mode, not 0.

Chua et al. 2024, "Post-Training Statistical Calibration for Higher Activation Sparsity",
arXiv 2412.07174, with the mask m:

    y = W ((x - mode) * m) + W mode

The last term is a bias that is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.errors import unknown_name
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import Threshold
from sparseact.sites import find_channels

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CANDIDATES = 64
"""Quantiles of a channel among which the peak of its density is looked for."""

KERNEL_TOKENS = 512
"""Tokens that the density is estimated from."""


@dataclass(frozen=True)
class SCAP(GatePolicy):
    """Threshold how far each input is from its usual value, in every linear.

    The released configurations gate the linears of the MLP alone (down, or all three); the usual value is measured,
    as the mode of a density or the median, or taken for 0, and a sparsity is set by hand for each kind of linear. Here
    all linears of the blocks are gated, each channel has its own value, and all linears have the same sparsity.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
        center: what a channel's usual value is.
        lm_head: gate the head of the model too; `sparsity` is then a share of the weights of blocks and head.
    """

    name = "scap"
    center: Literal["mode", "median"] = "mode"
    lm_head: bool = False

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By |x|, less its usual value."""
        if self.center not in CENTERS:
            raise unknown_name("scap: unknown center", self.center, CENTERS)
        return [Gate(site, Threshold(0.0)) for site in find_channels(model, lm_head=self.lm_head)]

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """The usual values."""
        center = CENTERS[self.center]
        return [replace(gate, shift=center(calibration.sample.x[gate.site])) for gate in gates]


def mode(x: Tensor) -> Tensor:
    """Peak of each channel's density [channels] in x [tokens, channels]: Gaussian kernels, Silverman's width."""
    x = x[:: -(-len(x) // KERNEL_TOKENS)]
    candidates = x.quantile(torch.linspace(0, 1, CANDIDATES + 2)[1:-1], dim=0)
    low, high = x.quantile(torch.tensor([0.25, 0.75]), dim=0)
    width = (0.9 * (high - low) / 1.34 * len(x) ** -0.2).clamp(min=1e-12)
    density = torch.stack([(((x - value) / width).square() / -2).exp().mean(dim=0) for value in candidates])
    return candidates.gather(0, density.argmax(dim=0, keepdim=True))[0]


def median(x: Tensor) -> Tensor:
    """Median of each channel [channels] in x [tokens, channels]."""
    return x.median(dim=0).values


CENTERS: dict[str, Callable[[Tensor], Tensor]] = {"mode": mode, "median": median}
