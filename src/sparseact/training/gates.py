"""The gates of a recipe while the weights move: thresholds steered, scales current, constants and routers learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparseact.calibration.fit import fit_gates
from sparseact.calibration.policy import GatePolicy
from sparseact.errors import InputError
from sparseact.masked.apply import run_gates
from sparseact.masked.decoding import evaluation_mode
from sparseact.masked.density import Density
from sparseact.masked.gate import on_device
from sparseact.masked.recipe import fingerprint_of
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import BELOW_ALL, StatisticalTopK, Threshold, TopP
from sparseact.sites import Site, capture, skip_logits
from sparseact.training.controller import Controller, additive, multiplicative

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GAIN = 0.5
"""How hard a threshold is steered: log threshold += GAIN * (density - target) after each step."""

INITIAL_WINDOWS = 4
"""Windows on which constants begin: the mean of what is off."""


class LiveGates:
    """What the hooks of a model read in training. The model itself is not wrapped.

    Attributes:
        policy: whose gates they are.
        levels: sparsity by the module's name, which thresholds are steered to and refitted for.
        phases: which tokens stay dense; a window stands for tokens that are decoded.
        by_site: the gates as they are now; `run_gates` looks them up in each forward pass.
        constants: parameters by the site's name, put in for what is off.
        routers: parameters by the names of their tensors, `mlp.0.router.0` the weight and `mlp.0.router.1` the bias.
    """

    def __init__(self, policy: GatePolicy, recipe: Recipe, model: PreTrainedModel) -> None:
        """Start from a recipe of the policy that was calibrated on the model.

        Raises:
            InputError: the recipe chooses units from a prompt.
        """
        if any(gate.frozen for gate in recipe.gates):
            raise InputError(f"method: {recipe.policy} chooses its units from a prompt, so it cannot be trained")
        self.policy = policy
        self.levels: dict[str, float] = dict(recipe.meta["levels"])
        self.phases: Phases = replace(recipe.phases, prefill=True)
        self.by_site: dict[Site, Gate] = {
            gate.site: gate for gate in on_device(recipe.gates, model.device, model.dtype)
        }
        self.constants: dict[str, nn.Parameter] = {}
        self._start = recipe
        self.routers: dict[str, nn.Parameter] = {}

    def running(self, model: PreTrainedModel) -> AbstractContextManager[Density]:
        """Mask the model inside the `with` block, which gives the counts of what was read."""
        return run_gates(model, self.by_site, self.phases)

    def learn_constants(self, model: PreTrainedModel, windows: Tensor) -> None:
        """Put a constant in for each unit that is off, at first its mean where it is off, and fit the selectors again.

        A learned one is SPON's (arXiv 2512.12744). A head and a rotated unit begin without one.
        """
        means = self._means_of_off(model, windows[:INITIAL_WINDOWS])
        for site, gate in self.by_site.items():
            if site.unit_size > 1:
                continue
            start = means[site] if gate.shift is None and gate.basis is None else gate.shift
            start = torch.zeros(site.units) if start is None else start
            constant = nn.Parameter(start.to(model.device, model.dtype).clone())
            self.constants[site.name] = constant
            self.by_site[site] = replace(gate, shift=constant)
        self.refit(model, windows)

    def learn_routers(self) -> None:
        """Make routers parameters: their scores get a gradient (`masked.gate.pass_to_router`)."""
        for site, gate in self.by_site.items():
            if gate.router is not None:
                weight, bias = (nn.Parameter(held.clone()) for held in gate.router)
                self.routers |= {f"{site.name}.router.0": weight, f"{site.name}.router.1": bias}
                self.by_site[site] = replace(gate, router=(weight, bias))

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """Constants and routers, by names that no parameter of a model has."""
        return {f"constant:{name}": held for name, held in self.constants.items()} | {
            f"router:{name}": held for name, held in self.routers.items()
        }

    def refresh(self, model: PreTrainedModel) -> None:
        """Compute anew what the gates hold of the weights, such as the norms of columns."""
        for fresh in on_device(self.policy.gates(model), model.device, model.dtype):
            gate = self.by_site[fresh.site]
            held = {name: values for name, values in fresh.tensors().items() if name != "shift"}
            if held:
                self.by_site[gate.site] = gate.with_tensors(gate.tensors() | held)

    def steer(self, density: Mapping[Site, float]) -> None:
        """Move each threshold towards its site's density; a rule that keeps a count needs none."""
        for site, gate in self.by_site.items():
            target = 1 - self.levels[site.module]
            self.by_site[site] = replace(gate, selector=steered(gate.selector, density[site], target))

    def densities(self, counts: Density) -> dict[Site, float]:
        """Share of each site's units that were on, over the tokens that are sparse."""
        found = {}
        for site in self.by_site:
            key = (site.name, "prefill")
            found[site] = 1 - counts.off[key] / max(1, counts.sparse[key] * site.units)
        return found

    def refit(self, model: PreTrainedModel, windows: Tensor) -> None:
        """Fit every selector, which is near its level, to it on windows [n, tokens]."""
        levels = {site: self.levels[site.module] for site in self.by_site}
        with torch.no_grad():
            fitted = fit_gates(model, list(self.by_site.values()), levels, windows, self.phases, nearly=True)
        self.by_site.update({gate.site: gate for gate in fitted})

    def numbers(self) -> dict[str, float]:
        """What is steered, by the site's name, for a checkpoint."""
        numbers = {site.name: _number(gate.selector) for site, gate in self.by_site.items()}
        return {name: number for name, number in numbers.items() if not math.isnan(number)}

    def set_numbers(self, numbers: Mapping[str, float]) -> None:
        """Put a checkpoint's numbers in."""
        for site, gate in self.by_site.items():
            if site.name in numbers:
                self.by_site[site] = replace(gate, selector=_with_number(gate.selector, numbers[site.name]))

    def recipe(self, model: PreTrainedModel, windows: Tensor, meta: dict[str, Any]) -> Recipe:
        """The recipe for the weights as they are now, with this training's levels and constants.

        What a calibration finds but budgets, such as predictors, is found anew; thresholds go on from where they were
        steered to.

        Args:
            windows: [n, tokens] of the calibration.
            meta: to be added to what the calibration said.
        """
        fresh, notes = self.policy.filled(model, windows)
        selectors = {site.name: gate.selector for site, gate in self.by_site.items()}
        self.by_site = {
            gate.site: replace(self._with_learned(gate), selector=selectors[gate.site.name])
            for gate in on_device(fresh, model.device, model.dtype)
        }
        self.refit(model, windows)
        fitted, start = tuple(self.by_site.values()), self._start
        meta = start.meta | notes | {"levels": self.levels} | meta
        return Recipe(start.policy, start.sparsity, fitted, start.phases, fingerprint_of(model, fitted), meta)

    def _with_learned(self, gate: Gate) -> Gate:
        """A gate with this training's constants, routers and their blocks, as values and not as parameters."""
        name, before = gate.site.name, self.by_site[gate.site]
        if name in self.constants:
            gate = replace(gate, shift=self.constants[name].detach())
        if before.router is not None:
            weight, bias = (held.detach() for held in before.router)
            gate = replace(gate, router=(weight, bias), blocks=before.blocks)
        return gate

    def _means_of_off(self, model: PreTrainedModel, windows: Tensor) -> dict[Site, Tensor]:
        sites = list(self.by_site)
        total = {site: torch.zeros(site.units, device=model.device) for site in sites}
        count = {site: torch.zeros(site.units, device=model.device) for site in sites}
        with (
            torch.no_grad(),
            evaluation_mode(model),
            capture(model, sites) as whole,  # the outer hooks see the units before they are masked
            self.running(model),
            capture(model, sites) as kept,
            skip_logits(model),
        ):
            for window in windows.to(model.device):
                model(window[None], use_cache=False)
                for site in sites:
                    x = whole[site].flatten(-2)
                    off = (kept[site].flatten(-2) == 0) & (x != 0)
                    if site.unit_size == 1:
                        total[site] += (x * off).flatten(0, 1).sum(dim=0)
                        count[site] += off.flatten(0, 1).sum(dim=0)
        return {site: total[site] / count[site].clamp(min=1) for site in sites}


def steered(selector: Any, density: float, target: float) -> Any:
    """A selector that comes nearer to a density; the same one where its level alone decides."""
    law = {
        Threshold: multiplicative(GAIN),  # log threshold
        StatisticalTopK: additive(GAIN),  # in standard deviations
        TopP: multiplicative(-GAIN),  # more mass, more units
    }.get(type(selector))
    if law is None or _keeps_all(selector):
        return selector
    value, measured, wanted = (torch.tensor(x, dtype=torch.float64) for x in (_number(selector), density, target))
    moved = float(Controller(value, wanted, law).update(measured))
    return _with_number(selector, min(moved, 1.0) if isinstance(selector, TopP) else moved)


def _keeps_all(selector: Any) -> bool:
    number = _number(selector)
    return (isinstance(selector, Threshold) and number < 0) or (
        isinstance(selector, StatisticalTopK) and number <= BELOW_ALL
    )


def _number(selector: Any) -> float:
    """What is steered of a selector; nan of one that its level decides."""
    names = {Threshold: "value", StatisticalTopK: "multiplier", TopP: "mass"}
    return float(getattr(selector, names[type(selector)])) if type(selector) in names else math.nan


def _with_number(selector: Any, number: float) -> Any:
    return selector if math.isnan(_number(selector)) else type(selector)(number)
