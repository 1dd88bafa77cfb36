"""CHESS: score = |act(gate)| * RMS(up), one threshold per layer, so one per channel of act(gate).

He et al. 2024, "CHESS: Optimizing LLM Inference via Channel-Wise Thresholding and Selective
Sparsification", arXiv 2409.01366: |act(gate_i)| > sqrt(T / E[up_i^2]). Its attention part,
|x| thresholds on the inputs of q and o, is TEAL's on those linears.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from sparseact.calibration.budgets import uniform
from sparseact.calibration.fit import calibrate_gates
from sparseact.calibration.neurons import find_neurons, read_signal, up_signal
from sparseact.calibration.sample import Sample
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import Threshold
from sparseact.sites import Site

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class CHESS:
    """Threshold act(gate) of every MLP, weighed by how large up is on average; needs an up projection.

    Attributes:
        sparsity: share of the neurons, whose rows of up and columns of down are not read for a token.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "chess"
    sparsity: float
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """RMS of up, then quantiles of the score, on the text."""
        neurons = {part.skipping("up", "down"): part for part in find_neurons(model)}
        up = {site: up_signal(model, part, self.name) for site, part in neurons.items()}

        def gate(site: Site, sample: Sample) -> Gate:
            values = read_signal(model, up[site], sample.x[neurons[site].inputs])
            return Gate(site, Threshold(0.0), neurons[site].gate, scale=root_mean_square(values))

        reads = [part.inputs for part in neurons.values()]
        return calibrate_gates(self, model, tokenizer, text, list(neurons), gate, uniform, reads=reads)


def root_mean_square(values: Tensor) -> Tensor:
    """sqrt(E[v_i^2]) over tokens: [tokens, units] to [units]."""
    return values.square().mean(dim=0).sqrt()
