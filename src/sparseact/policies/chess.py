"""CHESS: score = |act(gate)| * RMS(up), one threshold per layer, so one per channel of act(gate).

He et al. 2024, "CHESS: Optimizing LLM Inference via Channel-Wise Thresholding and Selective
Sparsification", arXiv 2409.01366: |act(gate_i)| > sqrt(T / E[up_i^2]). Its attention part,
|x| thresholds on the inputs of q and o, is TEAL's on those linears.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sparseact.calibration.neurons import find_neurons, read_signal, up_signal
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import Threshold
from sparseact.sites import Site

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class CHESS(GatePolicy):
    """Threshold act(gate) of every MLP, weighed by how large up is on average; needs an up projection.

    Attributes:
        sparsity: share of the neurons, whose rows of up and columns of down are not read for a token.
    """

    name = "chess"

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By act(gate)."""
        return [Gate(part.skipping("up", "down"), Threshold(0.0), part.gate) for part in find_neurons(model)]

    def reads(self, model: PreTrainedModel) -> list[Site]:
        """What up reads."""
        return [part.inputs for part in find_neurons(model)]

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """Weighed by the root mean square of up."""
        model, x = calibration.model, calibration.sample.x
        up = [read_signal(model, up_signal(model, part, self.name), x[part.inputs]) for part in find_neurons(model)]
        return [replace(gate, scale=root_mean_square(values)) for gate, values in zip(gates, up, strict=True)]


def root_mean_square(values: Tensor) -> Tensor:
    """sqrt(E[v_i^2]) over tokens: [tokens, units] to [units]."""
    return values.square().mean(dim=0).sqrt()
