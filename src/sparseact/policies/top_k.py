"""Lazy neurons: score = |act(gate)|, the highest of each token.

Li et al. 2022, "The Lazy Neuron Phenomenon", arXiv 2210.06313, trains with it; without training it is
the fine-grained sparsity of Sirius (Zhou et al. 2024, "Sirius: Contextual Sparsity with Correction").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.policy import GatePolicy
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import TopK

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TopKNeurons(GatePolicy):
    """Keep the neurons with the highest |act(gate)|. Without an up projection only columns of down are saved.

    Attributes:
        sparsity: share of the neurons, whose rows of up and columns of down are not read for a token.
    """

    name = "top-k"

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By act(gate)."""
        return [Gate(part.skipping("up", "down"), TopK(0.0), part.gate) for part in find_neurons(model)]
