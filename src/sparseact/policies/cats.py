"""CATS: score = |act(gate)|, one threshold per layer; up and down are read for what is kept.

Lee et al. 2024, "CATS: Contextually-Aware Thresholding for Sparsity in Large Language Models",
arXiv 2404.08763. The released code takes its quantile from 998 bins between -1 and 1; here
it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.policy import GatePolicy
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import Threshold

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class CATS(GatePolicy):
    """Threshold act(gate) of every MLP. Without an up projection only columns of down are saved.

    Attributes:
        sparsity: share of the neurons, whose rows of up and columns of down are not read for a token.
    """

    name = "cats"

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By act(gate)."""
        return [Gate(part.skipping("up", "down"), Threshold(0.0), part.gate) for part in find_neurons(model)]
