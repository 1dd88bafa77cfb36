"""Selectors: from scores to a mask at a level, each fitted once and applied to every token.

A selector is a few numbers; `fit` finds them on calibration scores [tokens, units], `mask` applies
them to scores [..., units]. Ties go to the lower index where a count is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from sparseact.errors import InputError

QUANTILE_VALUES = 2**19
"""Scores that a quantile is taken of; more are thinned evenly."""

BELOW_ALL = -1e9
"""A multiplier below every standardised score, whose square is at most the number of units; JSON has no -inf."""


class Selector(Protocol):
    """Which units of a token stay on.

    Attributes:
        reads_scores: whether `fit` looks at the scores; if not, the level alone decides.
    """

    reads_scores: ClassVar[bool]

    def fit(self, scores: Tensor, sparsity: float) -> Self:
        """The selector that switches off the share `sparsity` of scores like these [tokens, units]."""
        ...

    def mask(self, scores: Tensor) -> Tensor:
        """Which units are on: bool, the shape of `scores` [..., units]."""
        ...


@dataclass(frozen=True)
class Threshold:
    """Keep scores above a value: one comparison per unit (TEAL, CATS)."""

    reads_scores: ClassVar[bool] = True
    value: float

    @classmethod
    def fit(cls, scores: Tensor, sparsity: float) -> Self:
        """The quantile of the pooled scores."""
        return cls(quantile(scores, sparsity) if sparsity > 0 else -1.0)

    def mask(self, scores: Tensor) -> Tensor:
        """On where above the value."""
        return scores > self.value


@dataclass(frozen=True)
class TopK:
    """Keep the highest share of each token's scores: exact, and a sort per token (WINA, LaRoSA)."""

    reads_scores: ClassVar[bool] = False
    sparsity: float

    @classmethod
    def fit(cls, scores: Tensor, sparsity: float) -> Self:  # noqa: ARG003 - the protocol's
        """Nothing to fit."""
        return cls(sparsity)

    def mask(self, scores: Tensor) -> Tensor:
        """On among the token's highest."""
        return topk_mask(scores, self.sparsity)


@dataclass(frozen=True)
class StatisticalTopK:
    """Keep scores above mean + multiplier * std of the token's own scores: top-k without a sort.

    The hard form of Spark Transformer's rule (arXiv 2506.06644, eq. 7); the multiplier is
    recalibrated because |x| is not Gaussian.
    """

    reads_scores: ClassVar[bool] = True
    multiplier: float

    @classmethod
    def fit(cls, scores: Tensor, sparsity: float) -> Self:
        """The multiplier that gives the sparsity on average; the normal quantile on normal scores."""
        return cls(quantile(_standardise(scores), sparsity) if sparsity > 0 else BELOW_ALL)

    @classmethod
    def gaussian(cls, sparsity: float) -> Self:
        """The multiplier of the paper: the standard normal quantile."""
        return cls(NormalDist().inv_cdf(sparsity))

    def mask(self, scores: Tensor) -> Tensor:
        """On where the standardised score is above the multiplier."""
        return _standardise(scores) > self.multiplier


@dataclass(frozen=True)
class TopP:
    """Keep the smallest set that holds the share `mass` of the token's scores (arXiv 2509.00454)."""

    reads_scores: ClassVar[bool] = True
    mass: float

    @classmethod
    def fit(cls, scores: Tensor, sparsity: float) -> Self:
        """A unit is on if the higher ones hold less than the mass: a quantile of what they hold."""
        if sparsity == 0:
            return cls(1.0)
        ordered = scores.float().sort(dim=-1, descending=True).values
        total = ordered.sum(dim=-1, keepdim=True).clamp(min=1e-30)
        return cls(quantile((ordered.cumsum(dim=-1) - ordered) / total, 1 - sparsity))

    def mask(self, scores: Tensor) -> Tensor:
        """On among the highest until their sum reaches the share; scores must not be negative."""
        ordered, order = scores.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        needed = before < self.mass * ordered.sum(dim=-1, keepdim=True)
        keep = needed if self.mass < 1 else torch.ones_like(needed)
        return torch.zeros_like(keep).scatter_(-1, order, keep)


@dataclass(frozen=True)
class NOfM:
    """Keep the n highest of every m neighbouring units (arXiv 2508.02128, 2509.22166)."""

    reads_scores: ClassVar[bool] = False
    n: int
    m: int = 32

    def fit(self, scores: Tensor, sparsity: float) -> Self:
        """The n of this m that is nearest to the sparsity."""
        return replace(self, n=keep_count(self.m, sparsity))

    def mask(self, scores: Tensor) -> Tensor:
        """On among the n highest of the group; raises InputError if m does not divide the units."""
        units = scores.shape[-1]
        if units % self.m:
            raise InputError(f"n:m: {units} units are not a multiple of {self.m}")
        return (ranks(scores.unflatten(-1, (-1, self.m))) < self.n).flatten(-2)


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


def quantile(scores: Tensor, share: float) -> float:
    """The value below which `share` of all scores lie; exact up to `QUANTILE_VALUES` scores."""
    flat = _thinned(scores)
    return float(flat.kthvalue(_place(share, flat.numel())).values)


def quantiles(scores: Tensor, shares: Sequence[float]) -> Tensor:
    """`quantile` at several shares, in their order, with one sort."""
    ordered = _thinned(scores).sort().values
    return torch.stack([ordered[_place(share, ordered.numel()) - 1] for share in shares])


def _thinned(scores: Tensor) -> Tensor:
    stride = max(1, scores.numel() // QUANTILE_VALUES)
    while math.gcd(stride, scores.shape[-1]) > 1:  # else some units would never be looked at
        stride += 1
    return scores.flatten()[::stride].float()


def _place(share: float, values: int) -> int:
    """Counted from 1."""
    return min(values, max(1, round(share * values)))


def _standardise(scores: Tensor) -> Tensor:
    """(score - mean) / population standard deviation of each token's scores."""
    centred = scores - scores.mean(dim=-1, keepdim=True)
    return centred / centred.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)


def ranks(scores: Tensor) -> Tensor:
    """Rank of every unit [..., units], int32: 0 is the highest score, ties by index.

    One ranking gives the masks of all levels: `ranks(scores) < keep_count(units, sparsity)`.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(scores.shape[-1], dtype=torch.int32, device=scores.device)
    return torch.empty_like(order, dtype=torch.int32).scatter_(-1, order, places.expand(order.shape))


def keep_count(units: int, sparsity: float) -> int:
    """Units to keep at a requested sparsity: the nearest possible, half a unit rounding to sparser.

    Raises:
        InputError: the sparsity is not in [0, 1].
    """
    if not 0 <= sparsity <= 1:
        raise InputError(f"sparsity: {sparsity} is not between 0 and 1")
    return units - math.floor(sparsity * units + 0.5)


def topk_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Which units of each token stay on: bool, the shape of `scores`."""
    return ranks(scores) < keep_count(scores.shape[-1], sparsity)
