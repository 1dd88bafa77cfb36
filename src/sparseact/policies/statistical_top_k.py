"""Statistical top-k: score = |x|, kept above mean + multiplier * std of the token's own scores.

You et al. 2025, "Spark Transformer", arXiv 2506.06644, eq. 7: top-k without a sort. Training-free it must
be hard (x is kept, not x - threshold), and the multiplier is measured, because |x| is not Gaussian.
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
class StatisticalTopK(GatePolicy):
    """Threshold the inputs of all linears by each token's own mean and standard deviation.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
        lm_head: gate the head of the model too; `sparsity` is then a share of the weights of blocks and head.
    """

    name = "statistical-top-k"
    lm_head: bool = False

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By |x|."""
        return [Gate(site, selectors.StatisticalTopK(0.0)) for site in find_channels(model, lm_head=self.lm_head)]
