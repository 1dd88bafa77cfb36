"""Recipes that need no calibration: what the rules cost in time when they switch off exactly a given share.

    gate    score = |act(gate)|, the highest of each token: rows of up and columns of down are read (CATS, top-k)
    inputs  score = |x|, the highest of each token: columns of all linears of the blocks (TEAL)

Published rules compare with a threshold, which is fitted to a text; the highest of each token is the same share
whatever the weights are, and is found in microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sparseact.engine.load.gates import fingerprint_of
from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.architecture import Architecture
from sparseact.models.families import transformers_naming
from sparseact.models.weights import Weights
from sparseact.recipes.gate import Gate, Signal
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import TopK
from sparseact.recipes.site import Site, UnitKind


def rule_recipe(weights: Weights, rule: str, density: float) -> Recipe:
    """A recipe for these weights whose every mask is on for the share `density` of its units. Prompts stay dense.

    Raises:
        InputError: the density is not between 0 and 1, or the model has not what the rule reads.
    """
    if not 0 < density < 1:
        raise InputError(f"density: {density:g} is not between 0 and 1")
    gates = RULES[rule](weights.architecture, density)
    modules = [gate.site.module for gate in gates]
    # By its level the engine decides whether a linear is gathered or streamed, as it does for a calibrated recipe.
    levels = dict.fromkeys(modules, 1 - density)
    return Recipe(
        rule, 1 - density, tuple(gates), Phases(prefill=False), fingerprint_of(weights, modules), {"levels": levels}
    )


def _by_gate(architecture: Architecture, density: float) -> list[Gate]:
    if not architecture.gated:
        raise UnsupportedModelError(f"model: a {architecture.family} has no gate that could decide about its neurons")
    modules = transformers_naming(architecture.family).modules
    fused = 2 if modules["gate"] == modules["up"] else 1
    activation = architecture.activation.name.lower()
    return [
        Gate(
            _site(architecture, "mlp", layer, "down"),
            TopK(1 - density),
            Signal("output", modules["gate"].format(layer), (0, fused), activation),
        )
        for layer in range(architecture.layers)
    ]


def _by_inputs(architecture: Architecture, density: float) -> list[Gate]:
    inside = architecture.shapes_of_layer()
    sites = [
        _site(architecture, "channels", layer, part)
        for layer in range(architecture.layers)
        for part in ("q", "k", "v", "o", "gate", "up", "down")
        if part in inside
    ]
    return [Gate(site, TopK(1 - density)) for site in dict.fromkeys(sites)]  # fused linears are one


def _site(architecture: Architecture, kind: UnitKind, layer: int, part: str) -> Site:
    module = transformers_naming(architecture.family).modules[part].format(layer)
    # The engine counts the bytes itself.
    return Site(layer, kind, f"layers.{layer}", module, architecture.shapes_of_layer()[part][1], 1, 0.0)


RULES: Final[dict[str, Callable[[Architecture, float], list[Gate]]]] = {"gate": _by_gate, "inputs": _by_inputs}
