"""What every policy has in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from sparseact.calibration.sample import Sample
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Budget = Callable[[Sequence[Gate], Sample, float], dict[Site, float]]
"""Sparsity by site from the gates, the calibration sample and the target."""


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
