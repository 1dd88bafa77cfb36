"""Top-p: score = |x|, the smallest set of inputs that holds a share of the token's sum of |x|.

Szatkowski et al. 2025, "Universal Properties of Activation Sparsity in Modern Large Language Models",
arXiv 2509.00454.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparseact.calibration.policy import GatePolicy
from sparseact.recipes import selectors
from sparseact.recipes.gate import Gate
from sparseact.sites import find_channels

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TopP(GatePolicy):
    """Keep a share of each token's |x| in every linear: tokens whose inputs are even read more.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read, on average over tokens.
        lm_head: gate the head of the model too; `sparsity` is then a share of the weights of blocks and head.
    """

    name = "top-p"
    lm_head: bool = False

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By |x|."""
        return [Gate(site, selectors.TopP(1.0)) for site in find_channels(model, lm_head=self.lm_head)]
