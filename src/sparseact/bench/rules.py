"""Recipes that need no calibration: what the rules cost in time when they switch off a given share.

    gate    score = |act(gate)|: rows of up and columns of down are read for what is on (CATS)
    guess   score = |act(gate) * up| by half of their bits; the rest and down are read for what is on (leading-bits)
    inputs  score = |x|: columns of all linears of the blocks (TEAL)

A threshold per linear, as published. It is the quantile of the scores of tokens drawn at random, in the model whose
linears before it are sparse already, so that the share that is on is the one asked for within a hundredth or so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from sparseact.engine.engine import Engine
from sparseact.engine.forward.prefill import Product
from sparseact.engine.load.assemble import GUESSED_TYPES
from sparseact.engine.load.gates import fingerprint_of, linears_of, read_gates
from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.architecture import Architecture
from sparseact.models.families import transformers_naming
from sparseact.models.formats import Floats
from sparseact.models.weights import Weights
from sparseact.recipes.gate import Gate, Signal
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import Threshold
from sparseact.recipes.site import Site, UnitKind

FITTED: Final = 64
"""Tokens that thresholds are fitted to."""

PLANE_BITS: Final = 4
"""Of the 8 of a weight that a guess reads."""


def rule_recipe(weights: Weights, rule: str, density: float, *, dtype: str = "q8") -> Recipe:
    """A recipe for these weights whose every mask is on for the share `density` of its units. Prompts stay dense.

    Args:
        weights: are packed once, and let go.
        rule: of `RULES`.
        density: between 0 and 1.
        dtype: of the engine that computes the scores.

    Raises:
        InputError: the density is not between 0 and 1, or the model has not what the rule reads.
    """
    gates = rule_gates(weights.architecture, rule, density)
    modules = [gate.site.module for gate in gates]
    # By its level the engine decides whether a linear is gathered or streamed, as it does for a calibrated recipe.
    meta = {"levels": dict.fromkeys(modules, 1 - density)}
    recipe = Recipe(rule, 1 - density, tuple(gates), Phases(prefill=False), fingerprint_of(weights, modules), meta)
    with _Fit(weights, recipe, dtype) as engine:
        engine.prefill(np.random.default_rng(0).integers(0, weights.architecture.vocabulary, engine.context))
    found = linears_of(weights.architecture, modules)
    values = [engine.thresholds[found[module][0]] for module in modules]
    fitted = [replace(gate, selector=Threshold(value)) for gate, value in zip(gates, values, strict=True)]
    return replace(recipe, gates=tuple(fitted))


def rule_gates(architecture: Architecture, rule: str, density: float) -> list[Gate]:
    """The gates, whose thresholds are not fitted yet; for errors see `rule_recipe`."""
    if not 0 < density < 1:
        raise InputError(f"density: {density:g} is not between 0 and 1")
    return RULES[rule](architecture)


class _Fit(Engine):
    """A dense engine that masks its prompt, and fits each threshold when it first meets it."""

    def __init__(self, weights: Weights, recipe: Recipe, dtype: str) -> None:
        super().__init__(weights, dtype=dtype, context=min(FITTED, weights.architecture.context))
        self._gatings, self._phases = read_gates(recipe, weights), Phases()
        self._off = recipe.sparsity
        self.thresholds: dict[str, float] = {}

    def _mask(self, product: Product, name: str, x: Floats, outputs: Mapping[str, Floats], start: int) -> Floats:
        if name not in self._gatings:
            return x
        # This engine is dense and has no planes: what gate and up put out stands for what half of their bits say.
        scores = self._gatings[name].scores(x, outputs, self.architecture.activation, outputs.__getitem__)
        self.thresholds[name] = float(np.quantile(scores[1:], self._off))
        return np.where(scores > self.thresholds[name], x, np.float32(0))


def _by_gate(architecture: Architecture) -> list[Gate]:
    return [
        Gate(_site(architecture, "mlp", layer, "down"), Threshold(0.0), _signal(architecture, layer, "gate"))
        for layer in range(architecture.layers)
    ]


def _by_guess(architecture: Architecture) -> list[Gate]:
    signals = [
        replace(
            _signal(architecture, layer, "gate"),
            reads="guessed",
            bits=PLANE_BITS,
            times=_signal(architecture, layer, "up"),
        )
        for layer in range(architecture.layers)
    ]
    return [
        Gate(_site(architecture, "mlp", layer, "down"), Threshold(0.0), signal) for layer, signal in enumerate(signals)
    ]


def _signal(architecture: Architecture, layer: int, part: str) -> Signal:
    """What gate, activated, or up puts out."""
    if not architecture.gated:
        raise UnsupportedModelError(f"model: a {architecture.family} has no gate that could decide about its neurons")
    modules = transformers_naming(architecture.family).modules
    fused = modules["gate"] == modules["up"]
    index = 1 if fused and part == "up" else 0
    activation = architecture.activation.name.lower() if part == "gate" else ""
    return Signal("output", modules[part].format(layer), (index, 1 + fused), activation)


def _by_inputs(architecture: Architecture) -> list[Gate]:
    inside = architecture.shapes_of_layer()
    sites = [
        _site(architecture, "channels", layer, part)
        for layer in range(architecture.layers)
        for part in ("q", "k", "v", "o", "gate", "up", "down")
        if part in inside
    ]
    return [Gate(site, Threshold(0.0)) for site in dict.fromkeys(sites)]  # fused linears are one


def _site(architecture: Architecture, kind: UnitKind, layer: int, part: str) -> Site:
    module = transformers_naming(architecture.family).modules[part].format(layer)
    # The engine counts the bytes itself.
    return Site(layer, kind, f"layers.{layer}", module, architecture.shapes_of_layer()[part][1], 1, 0.0)


RULES: Final[dict[str, Callable[[Architecture], list[Gate]]]] = {
    "gate": _by_gate,
    "guess": _by_guess,
    "inputs": _by_inputs,
}


def rules_at(dtype: str) -> list[str]:
    """Those of `RULES` that the engine runs at a type: a guess reads half of 8 bits, which 4 have not."""
    return [rule for rule in RULES if rule != "guess" or dtype in GUESSED_TYPES]
