"""sparseact, the default: score = |x - median|, a threshold per linear input, budgets of equal loss per byte.

The paper's attribution (gradient x output) moved from run time to calibration: one backward pass over
labels that the model draws itself says what each site's dropped inputs cost, and every byte is saved
where it costs least. What is dropped is worth its median, which costs a bias and no weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from sparseact.calibration.budgets import least_loss
from sparseact.calibration.fit import calibrate_gates
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import Threshold
from sparseact.sites import find_channels

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class SparseAct:
    """Threshold the inputs of all linears, each as far as the loss allows.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
        lm_head: gate the head of the model too; `sparsity` is then a share of the weights of blocks and head.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "sparseact"
    sparsity: float
    lm_head: bool = False
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """Attribution and medians, then quantiles of |x - median|, on the text."""
        return calibrate_gates(
            self,
            model,
            tokenizer,
            text,
            find_channels(model, lm_head=self.lm_head),
            lambda site, sample: Gate(site, Threshold(0.0), shift=sample.x[site].median(dim=0).values),
            least_loss,
            gradient=True,
        )
