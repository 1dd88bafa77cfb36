"""The recipes that are tried: an oracle as a ceiling, and two rules that run.

oracle  score = |h| * ||W_down,i||: the neurons that add most to the output. It reads all of gate and up.
gate    score = |act(gate)| * RMS(up): CHESS, the highest of each token
inputs  the default policy on the inputs of all linears
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sparseact.calibration.fit import read_text
from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.policy import Calibration
from sparseact.calibration.sample import take_sample
from sparseact.calibration.weights import column_norms
from sparseact.errors import UnsupportedModelError
from sparseact.masked.recipe import fingerprint_of
from sparseact.policies.chess import CHESS
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import TopK

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def oracle_gates(model: PreTrainedModel) -> list[Gate]:
    """A gate per layer by the size of what each neuron adds.

    Raises:
        UnsupportedModelError: no gated MLP.
    """
    parts = find_neurons(model)
    if any(part.up is None for part in parts):
        kind = getattr(model.config, "model_type", type(model).__name__)
        raise UnsupportedModelError(f"model: {kind} has no gate beside its up projection; check needs a gated MLP")
    return [Gate(part.site, TopK(0.0), scale=column_norms(model, part.site)) for part in parts]


def gate_gates(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> list[Gate]:
    """A gate per layer by what is known once gate is computed, calibrated on a text.

    Raises:
        InputError: the text is too short.
    """
    policy, windows = CHESS(0.5), read_text(model, tokenizer, text).windows
    gates = policy.gates(model)
    sample = take_sample(model, [*(gate.site for gate in gates), *policy.reads(model)], windows)
    return policy.fill(gates, Calibration(model, windows, sample))


def at_level(model: PreTrainedModel, gates: Sequence[Gate], off: float) -> Recipe:
    """A recipe that keeps the highest scores of each token and leaves the share `off` of the units out."""
    held = tuple(replace(gate, selector=TopK(off)) for gate in gates)
    return Recipe("check", off, held, Phases(), fingerprint_of(model, held))
