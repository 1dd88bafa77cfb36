"""First look: guess every neuron from the token's largest inputs, finish those that promise most.

Ours. gate and up read the columns of the `look` share of a token's inputs with the largest |x|, for all
neurons; with the root mean squares of what that misses,

    score = sqrt((act(gate)^2 + error_gate^2) (up^2 + error_up^2)) * ||W_down,i||

is the expected size of what neuron i adds to the output. The remaining columns are read for the neurons
that stay on. What the look reads is used again, so a guess costs nothing for a neuron that is on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseact.calibration.neurons import Neurons, find_neurons, read_signal
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.calibration.weights import column_norms
from sparseact.errors import InputError
from sparseact.masked.selectors import topk_mask
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import TopK, keep_count
from sparseact.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class FirstLook(GatePolicy):
    """Keep the neurons of every MLP that promise most after a look at each token's largest inputs.

    Attributes:
        sparsity: share of the neurons, whose columns of down and the rest of whose rows of gate and up are not
            read for a token.
        look: share of the MLP's inputs that are read for all neurons.
    """

    name = "first-look"
    look: float = 0.375

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By a guess, and the norms of the columns of down."""
        if not 0 < self.look < 1:
            raise InputError(f"look: {self.look} is not between 0 and 1")
        return [self._gate(model, part) for part in find_neurons(model)]

    def _gate(self, model: PreTrainedModel, part: Neurons) -> Gate:
        unread = 1 - keep_count(part.inputs.units, 1 - self.look) / part.inputs.units
        saved = unread * (part.part_bytes["gate"] + part.part_bytes["up"]) + part.part_bytes["down"]
        signal = replace(part.gate, reads="guessed", look=self.look, times=part.up)
        return Gate(replace(part.site, unit_bytes=saved), TopK(0.0), signal, scale=column_norms(model, part.site))

    def reads(self, model: PreTrainedModel) -> list[Site]:
        """What gate and up read."""
        return [part.inputs for part in find_neurons(model)]

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """How far the guesses are off."""
        parts = zip(gates, find_neurons(calibration.model), strict=True)
        return [replace(gate, guess_error=self._error(part, calibration)) for gate, part in parts]

    def _error(self, part: Neurons, calibration: Calibration) -> Tensor:
        x = calibration.sample.x[part.inputs]
        seen = x * topk_mask(x.abs(), 1 - self.look)
        signals = [signal for signal in (part.gate, part.up) if signal is not None]
        whole, guessed = ([read_signal(calibration.model, signal, of) for signal in signals] for of in (x, seen))
        missed = [one - other for one, other in zip(whole, guessed, strict=True)]
        return torch.stack([values.square().mean(dim=0).sqrt() for values in missed])
