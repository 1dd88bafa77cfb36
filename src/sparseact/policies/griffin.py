"""GRIFFIN: the neurons that mattered most over the prompt are the only ones used to continue it.

Dong et al. 2024, "Prompt-prompted Adaptive Structured Pruning for Efficient LLM Generation",
arXiv 2404.01365: score = ||h_t / ||h_t||||_2 over the prompt's tokens (`runtime.prompt_scores`).
Every text of a batch has its own neurons.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparseact.policies.budget import uniform
from sparseact.policies.calibration import calibrate_gates
from sparseact.policies.gate import Gate
from sparseact.policies.neurons import find_neurons
from sparseact.policies.phases import Phases
from sparseact.policies.recipe import Recipe
from sparseact.select import TopK


@dataclass(frozen=True)
class Griffin:
    """Keep, while decoding, the neurons of every MLP that the prompt used most. The prompt runs dense.

    Attributes:
        sparsity: share of the neurons, whose rows of gate and up and columns of down are not read while
            decoding.
        phases: which tokens stay dense; several tokens at once always do.
    """

    name: ClassVar[str] = "griffin"
    sparsity: float
    phases: Phases = field(default_factory=lambda: Phases(prefill=False))

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """Nothing is fitted to the text: the prompt is the calibration."""
        sites = [neurons.site for neurons in find_neurons(model)]
        return calibrate_gates(
            self, model, tokenizer, text, sites, lambda site, _: Gate(site, TopK(0.0), frozen=True), uniform
        )
