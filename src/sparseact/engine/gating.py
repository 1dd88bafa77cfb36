"""A recipe in the engine's terms: which linears have inputs that are switched off, and how."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sparseact.engine.architecture import Architecture
from sparseact.engine.formats import Floats, bf16_of, float_of_bf16
from sparseact.engine.places import transformers_naming
from sparseact.engine.weights import Weights
from sparseact.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from sparseact.policies.gate import Gate
    from sparseact.policies.recipe import Recipe

RUNS = ("sparseact", "teal", "scap", "cats", "chess", "cett", "r-sparse with alpha=1")
"""Policies whose recipes the engine runs."""


@dataclass(frozen=True)
class Gating:
    """The rule of one linear: an input is on if |signal - shift| * scale > threshold.

    Attributes:
        threshold: of the scores.
        scale, shift: [inputs], or None for 1 and 0. An input that is off counts as its shift.
        by_gate: the linear is a `down`, and the signal is act(gate), not the input itself.
    """

    threshold: float
    scale: Floats | None
    shift: Floats | None
    by_gate: bool

    def keep(self, x: Floats, signal: Floats) -> Floats:
        """The inputs x [..., inputs] with those that are off replaced: what the compiled step does, in NumPy."""
        shift = np.float32(0) if self.shift is None else self.shift
        scores = np.abs(signal - shift)
        if self.scale is not None:
            scores = scores * self.scale
        return np.where(scores > np.float32(self.threshold), x, shift)


def read_gates(recipe: Recipe, weights: Weights) -> dict[str, Gating]:
    """The gates of a recipe by the canonical name of their linear; those that never switch off are left out.

    Raises:
        InputError: the recipe is of another model, or of a policy that the engine does not run.
    """
    modules = _modules(weights.architecture)
    gatings: dict[str, Gating] = {}
    for gate in recipe.gates:
        names = _linears(gate.site.module, modules)
        if not names or not all(weights.shape(name)[1] == gate.site.units * gate.site.unit_size for name in names):
            raise InputError(
                f"--recipe: {recipe.policy} masks {gate.site.module} with {gate.site.units} inputs, "
                f"which this {weights.architecture.family} does not have; calibrate on this model"
            )
        gating = _gating(gate, names, recipe.policy, modules, weights.architecture)
        if gating.threshold >= 0:  # no score is below 0
            gatings |= dict.fromkeys(names, gating)
    if _fingerprint(recipe, weights, modules) != recipe.model:
        raise InputError(
            f"--recipe: {recipe.policy} at sparsity {recipe.sparsity} was calibrated on another model, or on other "
            "weights; calibrate again"
        )
    return gatings


def _gating(
    gate: Gate, names: list[str], policy: str, modules: dict[str, list[str]], architecture: Architecture
) -> Gating:
    reason = _reason(gate, names, modules)
    if reason:
        raise InputError(f"--recipe: the engine does not run {policy} ({reason}); it runs {', '.join(RUNS)}")
    by_gate = gate.signal.reads == "output" and architecture.gated
    threshold = _threshold(gate)
    assert threshold is not None
    return Gating(threshold, _array(gate.scale), _array(gate.shift), by_gate)


def _reason(gate: Gate, names: list[str], modules: dict[str, list[str]]) -> str:
    """Why a gate cannot be run; empty if it can."""
    by_other = gate.signal.reads == "output"
    layer, _, part = names[0].rpartition(".")
    by_gate = (
        part == "down"
        and f"{layer}.gate" in _linears(gate.signal.module, modules)
        and gate.signal.part[0] == 0
        and bool(gate.signal.activation)
    )
    reasons = {
        "it has a basis": gate.basis is not None,
        "it has a low-rank correction": gate.low_rank is not None,
        "it has a predictor": gate.predictor is not None,
        "its mask is chosen from the prompt": gate.frozen,
        "it switches heads off": gate.site.kind == "heads",
        f"it selects by {type(gate.selector).__name__}, not by a threshold": _threshold(gate) is None,
        f"it decides by what {gate.signal.module} puts out": by_other and not by_gate,
        "it has a shift of what another linear puts out": by_other and gate.shift is not None,
    }
    return next((reason for reason, found in reasons.items() if found), "")


def _threshold(gate: Gate) -> float | None:
    from sparseact.select import Threshold

    return gate.selector.value if isinstance(gate.selector, Threshold) else None


def _array(tensor: Tensor | None) -> Floats | None:
    return None if tensor is None else np.ascontiguousarray(tensor.detach().float().cpu().numpy())


def _modules(architecture: Architecture) -> dict[str, list[str]]:
    """Canonical names of the linears by their module's name in transformers, without the path of the decoder."""
    naming = transformers_naming(architecture.family)
    modules: dict[str, list[str]] = {}
    for name, shape in architecture.shapes().items():
        layer, _, part = name.rpartition(".")
        if len(shape) == 2 and part in {"q", "k", "v", "o", "gate", "up", "down"}:
            modules.setdefault(naming.modules[part].format(layer), []).append(name)
    modules["lm_head"] = ["embed" if architecture.tied else "head"]
    return modules


def _linears(module: str, modules: dict[str, list[str]]) -> list[str]:
    return next((names for name, names in modules.items() if f".{module}".endswith(f".{name}")), [])


def _fingerprint(recipe: Recipe, weights: Weights, modules: dict[str, list[str]]) -> str:
    """As `policies.recipe.fingerprint` computes it of a model of transformers."""
    naming = transformers_naming(weights.architecture.family)
    digest = hashlib.sha256(weights.architecture.family.encode())
    for gate in recipe.gates:
        names = _linears(gate.site.module, modules)
        shape = (sum(weights.shape(name)[0] for name in names), weights.shape(names[0])[1])
        step = max(1, shape[0] * shape[1] // 32)
        if naming.transposed and names[0] not in {"embed", "head"}:
            shape = shape[::-1]
            some = np.concatenate([weights.floats(name) for name in names]).T.flatten()[::step]
        elif len(names) > 1:
            some = np.concatenate([weights.floats(name) for name in names]).reshape(-1)[::step]
        else:  # a few numbers of a large tensor
            places = (divmod(place, shape[1]) for place in range(0, shape[0] * shape[1], step))
            some = np.array([weights.floats(names[0], row, row + 1)[0, j] for row, j in places], np.float32)
        values = float_of_bf16(bf16_of(np.ascontiguousarray(some))).tolist()
        digest.update(f"{gate.site.module} {shape} {values}".encode())
    return digest.hexdigest()
