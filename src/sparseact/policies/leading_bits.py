"""Leading bits: guess every neuron from the first 4 of the 8 bits of gate and up, finish those that promise most.

Ours. At 8 bits a weight is s q, s being the largest |w| of 32 inputs over 127, and q = 16 high + low: two planes of 4.
gate and up of all neurons are guessed from the high planes alone, by the weights s (16 high + 7.5);

    score = |act(gate) * up - mean_off| * ||W_down,i||

of the guesses says what is lost if neuron i is off. For those that are on, and only for them, the low planes of gate
and up and the column of down are read: no bit is read twice, and what is read for all neurons is a stream. What is off
is worth its mean where off, whose share of the output is a bias (SPON's constants). Budgets are those of `sparseact`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sparseact.calibration.budgets import least_loss
from sparseact.calibration.fit import mean_where_off
from sparseact.calibration.neurons import Neurons, find_neurons
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.calibration.weights import column_norms
from sparseact.errors import InputError
from sparseact.masked.gate import guess
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import Threshold
from sparseact.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LeadingBits(GatePolicy):
    """Keep the neurons of every MLP that promise most by the leading bits of their weights.

    Attributes:
        sparsity: share of the neurons, whose columns of down and the other bits of whose rows of gate and up are not
            read for a token: where 4 of 8 bits lead, two thirds of the MLPs' bytes, of which it is a share.
        bits: that are read for all neurons, of the 8 of each weight of gate and up.
        constants: a neuron that is off is worth its mean where off; if false, 0.
    """

    name = "leading-bits"
    needs_gradient = True
    fill_needs_gradient = False
    bits: int = 4
    constants: bool = True

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By a guess, and the norms of the columns of down."""
        if not 0 < self.bits < 8:
            raise InputError(f"bits: {self.bits} is not between 1 and 7")
        return [self._gate(model, part) for part in find_neurons(model)]

    def _gate(self, model: PreTrainedModel, part: Neurons) -> Gate:
        rows = part.part_bytes["gate"] + part.part_bytes["up"]
        site = replace(part.site, unit_bytes=(1 - self.bits / 8) * rows + part.part_bytes["down"])
        signal = replace(part.gate, reads="guessed", bits=self.bits, times=part.up)
        return Gate(site, Threshold(0.0), signal, scale=column_norms(model, part.site))

    def reads(self, model: PreTrainedModel) -> list[Site]:
        """What gate and up read."""
        return [part.inputs for part in find_neurons(model)] if self.constants else []

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """The constants."""
        if not self.constants:
            return gates
        parts = zip(gates, self.reads(calibration.model), strict=True)
        return [replace(gate, shift=self._mean_off(gate, inputs, calibration)) for gate, inputs in parts]

    def _mean_off(self, gate: Gate, inputs: Site, calibration: Calibration) -> Tensor:
        """The mean of each neuron [units] over the tokens for which it is off; 0 where it never is."""
        modules = dict(calibration.model.named_modules(remove_duplicate=False))
        weight: Any = modules[gate.signal.module].weight
        x = calibration.sample.x[inputs].to(weight.device, weight.dtype)
        scores = gate.score(guess(gate, modules, x).float().cpu())
        return mean_where_off(gate, calibration.sample.x[gate.site], scores, self.sparsity)

    def budget(self, gates: Sequence[Gate], calibration: Calibration, target: float) -> dict[Site, float]:
        """Where a byte costs least."""
        return least_loss(gates, calibration.sample, target)
