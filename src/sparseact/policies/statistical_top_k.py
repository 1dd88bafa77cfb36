"""Statistical top-k: score = |x|, kept above mean + multiplier * std of the token's own scores.

You et al. 2025, "Spark Transformer", arXiv 2506.06644, eq. 7: top-k without a sort. Training-free it must
be hard (x is kept, not x - threshold), and the multiplier is measured, because |x| is not Gaussian.
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
class StatisticalTopK:
    """Threshold the inputs of all linears by each token's own mean and standard deviation.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
        lm_head: gate the head of the model too; `sparsity` is then a share of the weights of blocks and head.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "statistical-top-k"
    sparsity: float
    lm_head: bool = False
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """Quantiles of the standardised |x| on the text."""
        sites = find_channels(model, lm_head=self.lm_head)
        start = select.StatisticalTopK(0.0)
        return calibrate_gates(self, model, tokenizer, text, sites, lambda site, _: Gate(site, start), uniform)
