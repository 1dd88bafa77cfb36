"""Static: score = mean |h_i| * ||W_down,i||, of a text; the same neurons for every token, or random ones: a control.

Ours. What a choice by input has to beat at equal bytes: with it off, a model is one whose other neurons were pruned for
good. In `sparseact train` it is the pruned model that was tuned on the same tokens, or the frozen random mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.calibration.weights import column_norms
from sparseact.errors import unknown_name
from sparseact.recipes.gate import Gate, Signal
from sparseact.recipes.selectors import TopK

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHOICES = ("importance", "random")


@dataclass(frozen=True)
class Static(GatePolicy):
    """A control: keep the same neurons of every MLP for all tokens, the most important on average or random ones.

    Attributes:
        sparsity: share of the neurons, whose rows of gate and up and columns of down are never read.
        by: what chooses them: `importance`, or `random`.
        seed: of the random choice.
    """

    name = "static"
    by: Literal["importance", "random"] = "importance"
    seed: int = 0

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By a prediction that no token changes: of rank 1, and 0."""
        if self.by not in CHOICES:
            raise unknown_name("by: unknown choice", self.by, CHOICES)
        return [
            Gate(part.site, TopK(0.0), Signal("predicted", part.inputs.module, activation="sigmoid"))
            for part in find_neurons(model)
        ]

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """The ranks of the neurons, as a bias."""
        parts, generator = find_neurons(calibration.model), torch.Generator().manual_seed(self.seed)
        filled = []
        for gate, part in zip(gates, parts, strict=True):
            size = calibration.sample.x[gate.site].abs().mean(dim=0) * column_norms(calibration.model, gate.site)
            scores = torch.rand(len(size), generator=generator) if self.by == "random" else size
            rank = scores.argsort().argsort() / len(scores) - 0.5
            nothing = rank.new_zeros(1, part.inputs.units), rank.new_zeros(len(rank), 1)
            filled.append(replace(gate, predictor=(*nothing, rank)))
        return filled
