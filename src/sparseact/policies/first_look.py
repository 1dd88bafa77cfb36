"""First look: guess every neuron from the token's largest inputs, finish those that promise most.

Ours. gate and up read the columns of the `look` share of a token's inputs with the largest |x|, for all
neurons; with the root mean squares of what that misses,

    score = sqrt((act(gate)^2 + error_gate^2) (up^2 + error_up^2)) * ||W_down,i||

is the expected size of what neuron i adds to the output. The remaining columns are read for the neurons
that stay on. What the look reads is used again, so a guess costs nothing for a neuron that is on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from sparseact.calibration.budgets import uniform
from sparseact.calibration.fit import calibrate_gates
from sparseact.calibration.neurons import find_neurons, read_signal
from sparseact.calibration.sample import Sample
from sparseact.calibration.weights import column_norms
from sparseact.errors import InputError
from sparseact.masked.selectors import topk_mask
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import TopK, keep_count
from sparseact.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class FirstLook:
    """Keep the neurons of every MLP that promise most after a look at each token's largest inputs.

    Attributes:
        sparsity: share of the neurons, whose columns of down and the rest of whose rows of gate and up are not
            read for a token.
        look: share of the MLP's inputs that are read for all neurons.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "first-look"
    sparsity: float
    look: float = 0.375
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """How far the guesses are off, on the text."""
        if not 0 < self.look < 1:
            raise InputError(f"look: {self.look} is not between 0 and 1")
        neurons = {}
        for part in find_neurons(model):
            unread = 1 - keep_count(part.inputs.units, 1 - self.look) / part.inputs.units
            saved = unread * (part.part_bytes["gate"] + part.part_bytes["up"]) + part.part_bytes["down"]
            neurons[replace(part.site, unit_bytes=saved)] = part

        def gate(site: Site, sample: Sample) -> Gate:
            part = neurons[site]
            x = sample.x[part.inputs]
            largest = x * topk_mask(x.abs(), 1 - self.look)
            signals = [signal for signal in (part.gate, part.up) if signal is not None]
            missed = [read_signal(model, signal, x) - read_signal(model, signal, largest) for signal in signals]
            error = torch.stack([values.square().mean(dim=0).sqrt() for values in missed])
            signal = replace(part.gate, reads="guessed", look=self.look, times=part.up)
            return Gate(site, TopK(0.0), signal, scale=column_norms(model, site), guess_error=error)

        reads = [part.inputs for part in neurons.values()]
        return calibrate_gates(self, model, tokenizer, text, list(neurons), gate, uniform, reads=reads)
