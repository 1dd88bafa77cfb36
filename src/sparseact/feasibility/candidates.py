"""The recipes that are tried: an oracle as a ceiling, and three rules that run.

oracle  score = |h| * ||W_down,i||: the neurons that add most to the output. It reads all of gate and up.
gate    CHESS: score = |act(gate)| * RMS(up)
guess   leading-bits: a guess of h by half of the bits of gate and up
inputs  the default policy on the inputs of all linears

Each keeps the highest scores of each token, by its policy's own budget. A calibrated recipe has thresholds instead; to
fit them takes three passes for each rule and share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sparseact.calibration.fit import read_text
from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.calibration.sample import Sample, take_sample
from sparseact.calibration.weights import column_norms
from sparseact.errors import UnsupportedModelError
from sparseact.masked.recipe import fingerprint_of
from sparseact.policies.chess import CHESS
from sparseact.policies.leading_bits import LeadingBits
from sparseact.policies.sparseact import SparseAct
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import TopK
from sparseact.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POLICIES: Final[dict[str, type[GatePolicy]]] = {"gate": CHESS, "guess": LeadingBits, "inputs": SparseAct}


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


def calibrate_all(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Calibration:
    """One pass, and its gradients, for all that is tried.

    Raises:
        InputError: the text is too short.
    """
    windows = read_text(model, tokenizer, text).windows
    policies = [kind(0.5) for kind in POLICIES.values()]
    sites = [
        site for policy in policies for site in [*(gate.site for gate in policy.gates(model)), *policy.reads(model)]
    ]
    of_module: dict[str, Site] = {}  # sites that differ only in the bytes that a unit stands for are hooked once
    for site in sites:
        of_module.setdefault(site.module, site)
    sample = take_sample(model, list(of_module.values()), windows, gradient=True)
    x, gradient = ({site: held[of_module[site.module]] for site in sites} for held in (sample.x, sample.gradient))
    return Calibration(model, windows, Sample(x, gradient))


def of_policy(policy: GatePolicy, calibration: Calibration) -> Recipe:
    """A policy's recipe, the highest of each token instead of thresholds, without a pass of the model."""
    gates, levels = policy.levelled(calibration)
    return _recipe(calibration.model, [(gate, levels[gate.site]) for gate in gates])


def at_level(model: PreTrainedModel, gates: Sequence[Gate], off: float) -> Recipe:
    """A recipe that keeps the highest scores of each token and leaves the share `off` of the units out."""
    return _recipe(model, [(gate, off) for gate in gates])


def _recipe(model: PreTrainedModel, levels: Sequence[tuple[Gate, float]]) -> Recipe:
    held = tuple(replace(gate, selector=TopK(level)) for gate, level in levels)
    return Recipe("check", 0.0, held, Phases(), fingerprint_of(model, held))
