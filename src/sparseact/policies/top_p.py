"""Top-p: score = |x|, the smallest set of inputs that holds a share of the token's sum of |x|.

Szatkowski et al. 2025, "Universal Properties of Activation Sparsity in Modern Large Language Models",
arXiv 2509.00454.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from sparseact.calibration.budgets import uniform
from sparseact.calibration.fit import calibrate_gates
from sparseact.recipes import selectors as select
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.sites import find_channels

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TopP:
    """Keep a share of each token's |x| in every linear: tokens whose inputs are even read more.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read, on average over tokens.
        lm_head: gate the head of the model too; `sparsity` is then a share of the weights of blocks and head.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "top-p"
    sparsity: float
    lm_head: bool = False
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """The share of |x| that gives the sparsity on the text, for each linear."""
        sites = find_channels(model, lm_head=self.lm_head)
        start = select.TopP(1.0)
        return calibrate_gates(self, model, tokenizer, text, sites, lambda site, _: Gate(site, start), uniform)
