"""Deja Vu: score = B A x + b, a low-rank guess from the MLP's input x; the highest neurons of each token are read.

Liu et al. 2023, "Deja Vu: Contextual Sparsity for Efficient LLMs at Inference Time", arXiv 2310.17157:
sigmoid(B A x), trained to tell which neurons are on. Theirs learns by gradient descent which neurons of a
ReLU are not 0; here the target is how important each neuron is, as a share of the token's mean, which
loses less of what matters than telling the most important ones from the rest. The fit is a reduced-rank ridge
regression in closed form, and it reads its own layer's input, not the one of the layer before. Theirs has a
predictor for the heads of each layer too, which is left out here: all heads stay on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.calibration.regression import reduced_rank_regression
from sparseact.calibration.weights import column_norms
from sparseact.errors import InputError, unknown_name
from sparseact.masked.gate import predict
from sparseact.masked.selectors import topk_mask
from sparseact.recipes.gate import Gate, Signal
from sparseact.recipes.selectors import TopK
from sparseact.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGETS = ("activation", "attribution")


@dataclass(frozen=True)
class DejaVu(GatePolicy):
    """Keep the neurons of every MLP that a predictor ranks highest for the token.

    The recipe's meta has `recall`: the share of the neurons that the target ranks highest and the
    predictor keeps too, on the quarter of the calibration tokens that it was not fitted on; by site, and
    their mean.

    Attributes:
        sparsity: share of the neurons, whose rows of gate and up and columns of down are not read for a token.
        rank: of the predictor, as a share of the number of inputs. Its bytes are read for every token.
        target: what makes a neuron important: `activation`, |h_i| * ||W_down,i||; `attribution`,
            |g_i h_i| with the gradient of labels that the model draws itself.
    """

    name = "deja-vu"
    rank: float = 0.125
    target: Literal["activation", "attribution"] = "activation"

    @property
    def needs_gradient(self) -> bool:
        """For an attribution target."""
        return self.target == "attribution"

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By a prediction; scores are positive, and the sigmoid keeps their order."""
        if self.target not in TARGETS:
            raise unknown_name("target: unknown target", self.target, TARGETS)
        if not 0 < self.rank <= 1:
            raise InputError(f"rank: {self.rank} is not above 0 and at most 1")
        return [
            Gate(part.site, TopK(0.0), Signal("predicted", part.inputs.module, activation="sigmoid"))
            for part in find_neurons(model)
        ]

    def reads(self, model: PreTrainedModel) -> list[Site]:
        """What gate and up read."""
        return [part.inputs for part in find_neurons(model)]

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """The predictors."""
        recall: dict[str, float] = {}
        inputs = self.reads(calibration.model)
        filled = [self._fit(gate, read, calibration, recall) for gate, read in zip(gates, inputs, strict=True)]
        calibration.notes["recall"] = {"mean": sum(recall.values()) / len(recall), **recall}
        return filled

    def _fit(self, gate: Gate, inputs: Site, calibration: Calibration, recall: dict[str, float]) -> Gate:
        sample, model, site = calibration.sample, calibration.model, gate.site
        x, h = sample.x[inputs], sample.x[site]
        importance = (h * (sample.gradient[site] if self.needs_gradient else column_norms(model, site))).abs()
        share = importance / importance.mean(dim=1, keepdim=True).clamp(min=1e-12)
        rank, fit = max(1, round(self.rank * inputs.units)), len(x) * 3 // 4
        gate = replace(gate, predictor=reduced_rank_regression(x[:fit], share[:fit], rank))
        read = gate.extra_bytes(model.dtype.itemsize)
        level = min(1.0, self.sparsity + read / (site.units * site.unit_bytes))  # net of the predictor
        kept, oracle = topk_mask(gate.score(predict(gate, x[fit:])), level), topk_mask(importance, level)[fit:]
        recall[site.name] = recall_of(kept, oracle)
        return gate


def recall_of(kept: Tensor, oracle: Tensor) -> float:
    """Share of the oracle's units that are kept, over all tokens; 1 if the oracle keeps none."""
    return float((kept & oracle).sum() / oracle.sum()) if oracle.any() else 1.0
