"""COUNTDOWN, M: score = |up|, one threshold per layer; gate and down are read for what is kept.

Cheon et al. 2025, "COUNTDOWN: Contextually Sparse Activation Filtering Out Unnecessary Weights in Down
Projection", arXiv 2505.17701. Its D guesses |act(gate) * up| with a low-rank predictor, as `deja-vu`
here does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparseact.calibration.neurons import find_neurons, up_signal
from sparseact.calibration.policy import GatePolicy
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import Threshold

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Countdown(GatePolicy):
    """Threshold up of every MLP; needs an up projection.

    Attributes:
        sparsity: share of the neurons, whose rows of gate and columns of down are not read for a token.
    """

    name = "countdown"

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By up."""
        return [
            Gate(part.skipping("gate", "down"), Threshold(0.0), up_signal(model, part, self.name))
            for part in find_neurons(model)
        ]
