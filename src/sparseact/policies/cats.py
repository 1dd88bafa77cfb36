"""CATS: score = |act(gate)|, one threshold per layer; up and down are read for what is kept.

Lee et al. 2024, "CATS: Contextually-Aware Thresholding for Sparsity in Large Language Models",
arXiv 2404.08763. The released code takes its quantile from 998 bins between -1 and 1; here
it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from sparseact.calibration.budgets import uniform
from sparseact.calibration.fit import calibrate_gates
from sparseact.calibration.neurons import find_neurons
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import Threshold

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class CATS:
    """Threshold act(gate) of every MLP. Without an up projection only columns of down are saved.

    Attributes:
        sparsity: share of the neurons, whose rows of up and columns of down are not read for a token.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "cats"
    sparsity: float
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """Quantiles of |act(gate)| on the text."""
        neurons = {part.skipping("up", "down"): part for part in find_neurons(model)}
        return calibrate_gates(
            self,
            model,
            tokenizer,
            text,
            list(neurons),
            lambda site, _: Gate(site, Threshold(0.0), neurons[site].gate),
            uniform,
        )
