"""A recipe in the engine's terms: which linears have inputs that are switched off, and how."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from sparseact.engine.forward.gating import Gating
from sparseact.engine.forward.state import BY_GATE, BY_GUESS, BY_INPUT, BY_PREDICTOR, BY_PROMPT, BY_ROUTER, BY_UP
from sparseact.engine.quant.layouts import PANEL
from sparseact.errors import InputError, UnsupportedRecipeError
from sparseact.models.architecture import Architecture, QKNorm
from sparseact.models.families import transformers_naming
from sparseact.models.formats import Array, Floats
from sparseact.models.tensor_names import Naming, place_of
from sparseact.models.weights import Weights
from sparseact.recipes.fingerprint import fingerprint, is_same, sampled
from sparseact.recipes.gate import Gate, Values, array_of
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selection import EVERYTHING, HIGHEST, THRESHOLD

RUNS = (
    "sparseact",
    "teal",
    "wina",
    "scap",
    "statistical-top-k",
    "top-p",
    "n-of-m",
    "cats",
    "chess",
    "countdown",
    "top-k",
    "cett",
    "griffin",
    "deja-vu",
    "static",
    "leading-bits",
    "block-router",
    "r-sparse with alpha=1",
)
"""Policies whose recipes the engine runs."""


def read_gates(recipe: Recipe, weights: Weights) -> dict[str, Gating]:
    """The gates of a recipe by the canonical name of their linear; those that never switch off are left out.

    Raises:
        InputError: the recipe is of another model.
        UnsupportedRecipeError: it is of a policy that the engine does not run.
    """
    modules = _modules(weights.architecture)
    gatings: dict[str, Gating] = {}
    for gate in recipe.gates:
        names = _linears(gate.site.module, modules)
        if not names or not all(weights.shape(name)[1] == gate.site.units * gate.site.unit_size for name in names):
            raise InputError(
                f"recipe: {recipe.policy} masks {gate.site.module} with {gate.site.units} inputs, "
                f"which this {weights.architecture.family} does not have; calibrate on this model"
            )
        gating = _gating(gate, names, recipe.policy, modules, weights.architecture)
        gating = replace(gating, level=recipe.meta.get("levels", {}).get(gate.site.module, 1.0))
        if gating.selection.rule != EVERYTHING:
            gatings |= dict.fromkeys(names, gating)
    if not is_same(recipe.model, fingerprint_of(weights, (gate.site.module for gate in recipe.gates))):
        raise InputError(
            f"recipe: {recipe.policy} at sparsity {recipe.sparsity} was calibrated on another model, or on other "
            "weights; calibrate again"
        )
    return gatings


def fingerprint_of(weights: Weights, masked: Iterable[str]) -> str:
    """What a recipe that masks the inputs of these modules knows the weights by."""
    modules = _modules(weights.architecture)
    return fingerprint(weights.architecture.family, (_looked_at(name, weights, modules) for name in masked))


def linears_of(architecture: Architecture, masked: Iterable[str]) -> dict[str, list[str]]:
    """Canonical names of the linears that are one module of transformers, for each of these modules."""
    modules = _modules(architecture)
    return {name: _linears(name, modules) for name in masked}


def _gating(
    gate: Gate, names: list[str], policy: str, modules: dict[str, list[str]], architecture: Architecture
) -> Gating:
    selection = gate.selection
    choice = _choice(gate, names, modules)
    blocks = np.zeros(0, np.int64) if gate.blocks is None else array_of(gate.blocks)
    sizes = np.bincount(blocks)
    reasons = {
        "it reads a rotation of the inputs": gate.basis is not None,
        "it reads low-rank factors for what is off": gate.low_rank is not None,
        "it looks at columns of gate and up before it reads their rows, which would take the weights twice": (
            gate.signal.reads == "guessed" and not gate.signal.bits
        ),
        f"it reads the leading {gate.signal.bits} bits; planes have 4": gate.signal.bits not in {0, 4},
        "it guesses neurons, of which the MLPs have no up": gate.signal.bits > 0 and not architecture.gated,
        f"it chooses among guesses by {type(gate.selector).__name__}": gate.signal.bits > 0
        and selection.rule not in {THRESHOLD, EVERYTHING},
        f"it routes among blocks by {type(gate.selector).__name__}": choice == BY_ROUTER
        and selection.rule not in {THRESHOLD, EVERYTHING},
        f"its blocks are not all of one size that is a multiple of {PANEL}": choice == BY_ROUTER
        and (sizes[0] % PANEL > 0 or (sizes[:-1] != sizes[0]).any() or sizes[-1] > sizes[0]),
        "it switches heads off token by token": gate.site.kind == "heads" and not gate.frozen,
        f"it decides by {gate.signal.reads} {gate.signal.module}": choice is None,
        "it chooses from the prompt and has a shift": choice == BY_PROMPT and gate.shift is not None,
        "it chooses by act(gate), which down reads, and has a shift that is no part of the score": (
            choice == BY_GATE and not architecture.gated and gate.shift is not None
        ),
        f"it chooses from the prompt by {type(gate.selector).__name__}": choice == BY_PROMPT
        and selection.rule not in {HIGHEST, EVERYTHING},
        "the model norms all neurons, and it computes some": choice not in {BY_INPUT, None}
        and gate.site.kind == "mlp"
        and architecture.inner_norms,
        "the model norms all heads at once, and it computes some": choice == BY_PROMPT
        and gate.site.kind == "heads"
        and (architecture.inner_norms or architecture.qk_norm == QKNorm.WHOLE),
        "it leaves none on": choice == BY_PROMPT and selection.rule == HIGHEST and not selection.keep,
    }
    for reason, found in reasons.items():
        if found:
            raise UnsupportedRecipeError(
                f"recipe: the engine does not run {policy} ({reason}); it runs {', '.join(RUNS)}"
            )
    assert choice is not None
    if choice == BY_GATE and not architecture.gated:
        choice = BY_INPUT  # act(gate) is what down reads
    predictor = None
    if gate.predictor is not None:
        first, second, bias = gate.predictor
        predictor = _floats(first), _floats(second), _floats(bias)
    scale, shift = (None if held is None else _floats(held) for held in (gate.scale, gate.shift))
    if gate.router is None:
        return Gating(selection, scale, shift, choice, predictor)
    order = blocks.argsort(kind="stable")
    scale, shift = (None if held is None else held[order] for held in (scale, shift))
    router, block = (_floats(gate.router[0]), _floats(gate.router[1])), int(sizes[0])
    return Gating(selection, scale, shift, choice, router=router, order=tuple(order.tolist()), block=block)


def _choice(gate: Gate, names: list[str], modules: dict[str, list[str]]) -> int | None:
    """By what a gate decides about the inputs of the linears `names`; None for what the engine has not."""
    layer, _, part = names[0].rpartition(".")
    signal = gate.signal
    if not gate.frozen and signal.reads == "input":
        return BY_INPUT
    if gate.frozen:
        return BY_PROMPT if (part, gate.site.kind) in {("down", "mlp"), ("o", "heads")} else None
    if part != "down":
        return None
    index, parts = signal.part
    sources = _linears(signal.module, modules)
    if signal.reads in {"predicted", "routed"}:
        known = sources[:1] == [f"{layer}.gate"] and signal.activation == "sigmoid"
        return {"predicted": BY_PREDICTOR, "routed": BY_ROUTER}[signal.reads] if known else None
    if len(sources) != parts:
        return None
    return {
        ("output", f"{layer}.gate", True): BY_GATE,
        ("output", f"{layer}.up", False): BY_UP,
        ("guessed", f"{layer}.gate", True): BY_GUESS,
    }.get((signal.reads, sources[index], bool(signal.activation)))


def _floats(values: Values) -> Floats:
    return np.ascontiguousarray(array_of(values), np.float32)


def _modules(architecture: Architecture) -> dict[str, list[str]]:
    """Canonical names of the linears by their module's name in transformers, without the path of the decoder."""
    naming = transformers_naming(architecture.family)
    modules: dict[str, list[str]] = {}
    for name, shape in architecture.shapes.items():
        layer, _, part = name.rpartition(".")
        if len(shape) == 2 and part in {"q", "k", "v", "o", "gate", "up", "down"}:
            modules.setdefault(naming.modules[part].format(layer), []).append(name)
    modules["lm_head"] = [architecture.head]
    return modules


def _linears(module: str, modules: dict[str, list[str]]) -> list[str]:
    return next((names for name, names in modules.items() if f".{module}".endswith(f".{name}")), [])


def _looked_at(module: str, weights: Weights, modules: dict[str, list[str]]) -> tuple[str, tuple[int, ...], Floats]:
    """Name, shape and some values of the weight of a transformers module, for the recipe's fingerprint."""
    names, naming = _linears(module, modules), transformers_naming(weights.architecture.family)
    shape = (sum(weights.shape(name)[0] for name in names), weights.shape(names[0])[1])
    transposed = naming.transposed and names[0] not in {"embed", "head"}
    stored = [_stored_rows(name, weights, naming) for name in names]
    places = sampled(shape)
    if transposed or len(names) > 1 or stored[0] is not None:
        whole = np.empty(shape, np.float32)
        for name, rows in zip(names, stored, strict=True):
            whole[slice(None) if rows is None else rows] = weights.floats(name)
        whole = whole.T if transposed else whole
        return module, whole.shape, whole.flatten()[:: places.step]
    looked = (divmod(place, shape[1]) for place in places)  # a few numbers of a large tensor
    return module, shape, np.array([weights.floats(names[0], row, row + 1)[0, j] for row, j in looked], np.float32)


def _stored_rows(name: str, weights: Weights, naming: Naming) -> Array | None:
    """Where a linear's rows stand in its module of transformers; None where it is all of it, in order."""
    if name in {"embed", "head"}:
        return None
    place, count = place_of(name, weights.architecture, naming)
    rows, own = place.rows(weights.shape(name)[0]), weights.shape(name)[0]
    if rows is None:
        return None if own == count else np.arange(place.first, place.first + own)
    return place.first + rows
