"""Lazy neurons: score = |act(gate)|, the highest of each token.

Li et al. 2022, "The Lazy Neuron Phenomenon", arXiv 2210.06313, trains with it; without training it is
the fine-grained sparsity of Sirius (Zhou et al. 2024, "Sirius: Contextual Sparsity with Correction").
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
from sparseact.recipes.selectors import TopK

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TopKNeurons:
    """Keep the neurons with the highest |act(gate)|. Without an up projection only columns of down are saved.

    Attributes:
        sparsity: share of the neurons, whose rows of up and columns of down are not read for a token.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "top-k"
    sparsity: float
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """Nothing is fitted to the text."""
        neurons = {part.skipping("up", "down"): part for part in find_neurons(model)}
        return calibrate_gates(
            self,
            model,
            tokenizer,
            text,
            list(neurons),
            lambda site, _: Gate(site, TopK(0.0), neurons[site].gate),
            uniform,
        )
