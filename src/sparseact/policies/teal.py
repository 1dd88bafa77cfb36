"""TEAL: score = |x|, a threshold per linear input; the same sparsity everywhere.

Liu et al. 2024, "Training-Free Activation Sparsity in Large Language Models", arXiv 2408.14690.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparseact.policies.budget import uniform
from sparseact.policies.calibration import calibrate_gates
from sparseact.policies.gate import Gate
from sparseact.policies.phases import Phases
from sparseact.policies.recipe import Recipe
from sparseact.select import Threshold
from sparseact.sites import find_channels


@dataclass(frozen=True)
class TEAL:
    """Threshold the inputs of all linears (section 4.1, uniform sparsities).

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "teal"
    sparsity: float
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """Quantiles of |x| on the text."""
        sites = find_channels(model)
        return calibrate_gates(self, model, tokenizer, text, sites, lambda site, _: Gate(site, Threshold(0.0)), uniform)
