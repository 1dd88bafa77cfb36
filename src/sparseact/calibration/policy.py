"""What every policy has in common, and how one that is a gate per site and a budget is calibrated."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

import sparseact
from sparseact.calibration.budgets import uniform
from sparseact.calibration.fit import fit_gates, gross_sparsity, read_text
from sparseact.calibration.sample import Sample, take_sample
from sparseact.errors import InputError
from sparseact.masked.recipe import fingerprint_of
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.sites import Site
from sparseact.utils.environment import installed_versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Policy(Protocol):
    """A run-time rule for a level: calibrated once on a text, without labels, it gives a recipe.

    A policy is a frozen dataclass; third parties publish theirs under the entry point group
    `sparseact.policies` and check it with `sparseact.testing.check_policy`.
    """

    name: ClassVar[str]

    @property
    def sparsity(self) -> float:
        """Requested share of the gated weight bytes that is not read for a token."""
        ...

    @property
    def phases(self) -> Phases:
        """Which tokens stay dense."""
        ...

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """The recipe for a model.

        Raises:
            InputError: the text is too short, or an option is out of range.
            UnsupportedModelError: the model has not what the policy gates.
        """
        ...


@dataclass(frozen=True)
class Calibration:
    """What a policy's numbers are found on.

    Attributes:
        model: dense.
        windows: of the calibration text, [windows, tokens].
        sample: what entered the sites' linears on them.
        notes: what the recipe's meta shall say besides.
    """

    model: PreTrainedModel
    windows: Tensor
    sample: Sample
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GatePolicy(ABC):
    """A policy that is a gate per site and a budget: say which gates, and `calibrate` follows.

    Attributes:
        sparsity: share of the weight bytes behind the gates that is not read for a token.
        phases: which tokens stay dense.
    """

    name: ClassVar[str]
    sparsity: float
    phases: Phases = field(default_factory=Phases, kw_only=True)

    @abstractmethod
    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """One gate per site, with what is known before the text is read; the selectors are fitted later.

        Raises:
            InputError: an option is out of range.
            UnsupportedModelError: the model has not what the policy gates.
        """

    def reads(self, model: PreTrainedModel) -> list[Site]:
        """Sites whose inputs `fill` looks at, beside the gates' own."""
        return []

    @property
    def needs_gradient(self) -> bool:
        """Whether `fill` or `budget` look at gradients."""
        return False

    @property
    def fill_needs_gradient(self) -> bool:
        """Whether `fill` alone does."""
        return self.needs_gradient

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """The gates with what the text says of them."""
        return gates

    def budget(self, gates: Sequence[Gate], calibration: Calibration, target: float) -> dict[Site, float]:
        """Sparsity by site, such that together they save the share `target` of the bytes; the same everywhere here."""
        return uniform(gates, calibration.sample, target)

    def filled(self, model: PreTrainedModel, windows: Tensor) -> tuple[list[Gate], dict[str, Any]]:
        """The gates with all but their selectors, by windows [n, tokens], and the notes; the budget is known."""
        calibration = self._calibration(model, windows, gradient=self.fill_needs_gradient)
        return self.fill(self.gates(model), calibration), calibration.notes

    def levelled(self, calibration: Calibration) -> tuple[list[Gate], dict[Site, float]]:
        """The gates with all but their selectors, and the sparsity of each site, without a pass of the model.

        Raises:
            InputError: what the gates read themselves is more than the sparsity saves.
        """
        model = calibration.model
        gates = self.fill(self.gates(model), calibration)
        if not self.sparsity:
            return gates, dict.fromkeys((gate.site for gate in gates), 0.0)
        gross = gross_sparsity(gates, self.sparsity, model.dtype.itemsize)
        return gates, self.budget(gates, calibration, gross)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """The recipe for a model, fitted to a text.

        Raises:
            InputError: the text is too short, an option is out of range, or what the gates read themselves is more
                than the sparsity saves.
            UnsupportedModelError: the model has not what the policy gates.
        """
        started = time.monotonic()
        if not 0 <= self.sparsity <= 1:
            raise InputError(f"sparsity: {self.sparsity} is not between 0 and 1")
        read = read_text(model, tokenizer, text)
        calibration = self._calibration(model, read.windows, gradient=self.needs_gradient)
        gates, levels = self.levelled(calibration)
        notes = calibration.notes
        del calibration  # its sample is the largest thing here; what the gates need of it is in them
        fitted = fit_gates(model, gates, levels, read.windows, self.phases)
        meta = {
            "calibration": read.meta,
            "element_size": model.dtype.itemsize,
            "options": asdict(self),
            "levels": {site.module: round(level, 4) for site, level in levels.items()},
            "seconds": round(time.monotonic() - started, 1),
            "versions": {"sparseact": sparseact.__version__, **installed_versions(("torch", "transformers"))},
            **notes,
        }
        return Recipe(self.name, self.sparsity, tuple(fitted), self.phases, fingerprint_of(model, fitted), meta)

    def _calibration(self, model: PreTrainedModel, windows: Tensor, *, gradient: bool) -> Calibration:
        sites = [*(gate.site for gate in self.gates(model)), *self.reads(model)]
        return Calibration(model, windows, take_sample(model, sites, windows, gradient=gradient))
