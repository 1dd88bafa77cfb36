"""Selectors: from scores to a mask at a level. A selector is a few numbers, fitted once and applied to every token.

How one is fitted to scores, and the mask itself, stand in `sparseact.masked.selectors`, on tensors of torch, and in
`sparseact.engine.kernels.select`, in compiled code.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, ClassVar, Protocol, Self

from sparseact.errors import InputError
from sparseact.recipes.selection import DEVIATIONS, EVERYTHING, HIGHEST, MASS, THRESHOLD, Selection

BELOW_ALL = -1e9
"""A multiplier below every standardised score, whose square is at most the number of units; JSON has no -inf."""


class Selector(Protocol):
    """Which units of a token stay on.

    Attributes:
        reads_scores: whether its numbers are fitted to scores; if not, the level alone decides.
    """

    reads_scores: ClassVar[bool]

    def selection(self, units: int) -> Selection:
        """The rule that it is over the scores of so many units."""
        ...


@dataclass(frozen=True)
class Threshold:
    """Keep scores above a value: one comparison per unit (TEAL, CATS)."""

    reads_scores: ClassVar[bool] = True
    value: float

    def selection(self, units: int) -> Selection:
        """No score is below 0."""
        return Selection(THRESHOLD if self.value >= 0 else EVERYTHING, self.value)


@dataclass(frozen=True)
class TopK:
    """Keep the highest share of each token's scores: exact, and a sort per token (WINA, LaRoSA)."""

    reads_scores: ClassVar[bool] = False
    sparsity: float

    def selection(self, units: int) -> Selection:
        """The highest of all units."""
        return _highest(units, keep_count(units, self.sparsity))


@dataclass(frozen=True)
class StatisticalTopK:
    """Keep scores above mean + multiplier * std of the token's own scores: top-k without a sort.

    The hard form of Spark Transformer's rule (arXiv 2506.06644, eq. 7); the multiplier is
    recalibrated because |x| is not Gaussian.
    """

    reads_scores: ClassVar[bool] = True
    multiplier: float

    @classmethod
    def gaussian(cls, sparsity: float) -> Self:
        """The multiplier of the paper: the standard normal quantile."""
        return cls(NormalDist().inv_cdf(sparsity))

    def selection(self, units: int) -> Selection:
        """By each token's own mean and population standard deviation."""
        return Selection(EVERYTHING if self.multiplier <= BELOW_ALL else DEVIATIONS, self.multiplier)


@dataclass(frozen=True)
class TopP:
    """Keep the smallest set that holds the share `mass` of the token's scores (arXiv 2509.00454)."""

    reads_scores: ClassVar[bool] = True
    mass: float

    def selection(self, units: int) -> Selection:
        """Of equal scores the first are on."""
        return Selection(MASS if self.mass < 1 else EVERYTHING, self.mass)


@dataclass(frozen=True)
class NOfM:
    """Keep the n highest of every m neighbouring units (arXiv 2508.02128, 2509.22166)."""

    reads_scores: ClassVar[bool] = False
    n: int
    m: int = 32

    def selection(self, units: int) -> Selection:
        """The highest of each group; raises InputError if m does not divide the units."""
        if units % self.m:
            raise InputError(f"n:m: {units} units are not a multiple of {self.m}")
        return _highest(self.m, self.n)


SELECTORS: dict[str, type[Any]] = {
    "threshold": Threshold,
    "top-k": TopK,
    "statistical-top-k": StatisticalTopK,
    "top-p": TopP,
    "n-of-m": NOfM,
}


def selector_to_json(selector: Any) -> dict[str, Any]:
    """A selector as recipe.json stores it."""
    (name,) = [name for name, kind in SELECTORS.items() if type(selector) is kind]
    return {"selector": name, **asdict(selector)}


def selector_from_json(record: dict[str, Any]) -> Any:
    """The selector that `selector_to_json` recorded."""
    values = dict(record)
    return SELECTORS[values.pop("selector")](**values)


def keep_count(units: int, sparsity: float) -> int:
    """Units to keep at a requested sparsity: the nearest possible, half a unit rounding to sparser.

    Raises:
        InputError: the sparsity is not in [0, 1].
    """
    if not 0 <= sparsity <= 1:
        raise InputError(f"sparsity: {sparsity} is not between 0 and 1")
    return units - math.floor(sparsity * units + 0.5)


def _highest(group: int, keep: int) -> Selection:
    return Selection(HIGHEST if keep < group else EVERYTHING, group=group, keep=keep)
