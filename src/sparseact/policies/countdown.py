"""COUNTDOWN, M: score = |up|, one threshold per layer; gate and down are read for what is kept.

Cheon et al. 2025, "COUNTDOWN: Contextually Sparse Activation Filtering Out Unnecessary Weights in Down
Projection", arXiv 2505.17701. Its D guesses |act(gate) * up| with a low-rank predictor, as `deja-vu`
here does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from sparseact.calibration.budgets import uniform
from sparseact.calibration.fit import calibrate_gates
from sparseact.calibration.neurons import find_neurons, up_signal
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import Threshold

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Countdown:
    """Threshold up of every MLP; needs an up projection.

    Attributes:
        sparsity: share of the neurons, whose rows of gate and columns of down are not read for a token.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "countdown"
    sparsity: float
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """Quantiles of |up| on the text."""
        neurons = find_neurons(model)
        up = {part.skipping("gate", "down"): up_signal(model, part, self.name) for part in neurons}
        return calibrate_gates(
            self,
            model,
            tokenizer,
            text,
            list(up),
            lambda site, _: Gate(site, Threshold(0.0), up[site]),
            uniform,
        )
