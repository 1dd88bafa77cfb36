"""TEAL: score = |x|, a threshold per linear input; the same sparsity everywhere, or greedy in each block.

Liu et al. 2024, "Training-Free Activation Sparsity in Large Language Models", arXiv 2408.14690.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparseact.calibration.greedy import greedy_in_blocks
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import Threshold
from sparseact.sites import Site, find_channels

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TEAL(GatePolicy):
    """Threshold the inputs of all linears.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
        greedy: spend each block's budget where the block's output changes least (algorithm 1) and not evenly:
            (sparsity / .01) * linears runs of each block on 256 tokens, minutes for a small model.
        lm_head: gate the head of the model too; `sparsity` is then a share of the weights of blocks and head.
    """

    name = "teal"
    greedy: bool = False
    lm_head: bool = False

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By |x|."""
        return [Gate(site, Threshold(0.0)) for site in find_channels(model, lm_head=self.lm_head)]

    def budget(self, gates: Sequence[Gate], calibration: Calibration, target: float) -> dict[Site, float]:
        """Algorithm 1 if asked for."""
        if not self.greedy:
            return super().budget(gates, calibration, target)
        return greedy_in_blocks(calibration.model, calibration.windows, gates, calibration.sample, target)
