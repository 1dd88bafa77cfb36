"""WINA: score = |x| * ||W_column||, the highest of each token.

Chen et al. 2025, "WINA: Weight Informed Neuron Activation", arXiv 2505.19427, section 3.
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
from sparseact.policies.sample import Sample
from sparseact.policies.weights import column_norms
from sparseact.select import TopK
from sparseact.sites import Site, find_channels

RELEASED = ("k_proj", "gate_proj", "qkv_proj", "gate_up_proj")
"""Linears whose inputs the released code weighs; for the others it takes |x|."""


@dataclass(frozen=True)
class WINA:
    """Keep the inputs with the highest |x_j| * ||W_:j||_2 of each token, in every linear.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
        as_released: weigh only the inputs that the released code weighs; without its rotation.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "wina"
    sparsity: float
    as_released: bool = False
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """Column norms of the weights; the text only says what is achieved."""

        def gate(site: Site, _: Sample) -> Gate:
            if self.as_released and not site.module.endswith(RELEASED):
                return Gate(site, TopK(0.0))
            return Gate(site, TopK(0.0), scale=column_norms(model, site))

        return calibrate_gates(self, model, tokenizer, text, find_channels(model), gate, uniform)
