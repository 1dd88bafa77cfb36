"""TEAL: score = |x|, a threshold per linear input; the same sparsity everywhere, or greedy in each block.

Liu et al. 2024, "Training-Free Activation Sparsity in Large Language Models", arXiv 2408.14690.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from sparseact.calibration.budgets import uniform
from sparseact.calibration.fit import calibrate_gates, read_text
from sparseact.calibration.greedy import greedy_in_blocks
from sparseact.calibration.policy import Budget
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import Threshold
from sparseact.sites import find_channels

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TEAL:
    """Threshold the inputs of all linears.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
        greedy: spend each block's budget where the block's output changes least (algorithm 1) and not evenly:
            (sparsity / .01) * linears runs of each block on 256 tokens, minutes for a small model.
        lm_head: gate the head of the model too; `sparsity` is then a share of the weights of blocks and head.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "teal"
    sparsity: float
    greedy: bool = False
    lm_head: bool = False
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """Quantiles of |x| on the text."""
        sites = find_channels(model, lm_head=self.lm_head)
        budget: Budget = uniform
        if self.greedy:
            budget = partial(greedy_in_blocks, model, read_text(model, tokenizer, text).windows)
        return calibrate_gates(self, model, tokenizer, text, sites, lambda site, _: Gate(site, Threshold(0.0)), budget)
