"""What is made of measured times: rates, ratios of the same round, and what may not be reported."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sparseact.bench.runner import Times

Round = tuple[str, int]
"""A run and the number of a round in it."""

LEAST_CPU: Final = 0.9
"""On one thread a sample with less CPU time per wall time had to share its core, or waited for the disk."""
MOST_WAIT: Final = 0.05
"""A sample whose threads waited longer than this share of the wall time for a core was disturbed."""
TOLERANCE: Final = 0.05
"""How far an engine's perplexity may be from that of its reference before its speed means nothing."""
MOST_TOLERANCE: Final = 0.15
"""The same where the difference is uncertain: a sparse model's masks jump at roundings, and so do its losses."""


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of `count` values."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Check:
    """Perplexity of the same tokens through an engine and its reference, the same weights and recipe in float32.

    Attributes:
        perplexity, reference: the exponentials of the mean negative log-likelihoods.
        error: standard error of the difference of those means, nats.
    """

    perplexity: float
    reference: float
    error: float

    @classmethod
    def of(cls, losses: Sequence[float], reference: Sequence[float]) -> Check:
        """From the negative log-likelihoods (nats) of the same tokens, at least two."""
        apart = [ours - theirs for ours, theirs in zip(losses, reference, strict=True)]
        error = statistics.stdev(apart) / math.sqrt(len(apart)) if all(map(math.isfinite, apart)) else math.inf
        return cls(perplexity(losses), perplexity(reference), error)

    def refusal(self, *, sparse: bool = False) -> str | None:
        """Why the engine gets no row; None if the perplexity is right.

        It may be off by 5%, that of a sparse model by two standard errors more, but not by more than 15%.
        """
        allowed = min(TOLERANCE + 2 * self.error, MOST_TOLERANCE) if sparse else TOLERANCE
        apart = self.perplexity / self.reference - 1
        if abs(apart) <= allowed:  # not NaN
            return None
        return f"perplexity {self.perplexity:.4g} where the reference has {self.reference:.4g} ({apart:+.1%})"


def perplexity(losses: Sequence[float]) -> float:
    """The exponential of the mean; infinite rather than an error where it is too large."""
    mean = statistics.fmean(losses)
    return math.inf if mean > math.log(1e300) else math.exp(mean)


def is_disturbed(times: Times, threads: int) -> bool:
    """Whether something else ran on the cores meanwhile."""
    starved = threads == 1 and times.cpu < LEAST_CPU * times.wall
    return starved or times.waited > MOST_WAIT * times.wall


def ratios(values: Mapping[Round, float], to: Mapping[Round, float]) -> list[float]:
    """Ratios of two values of the same round, for every round that has both.

    The machine's own speed drifts by tens of per cent within minutes; between neighbours in one round it cancels.
    """
    return [values[round_] / to[round_] for round_ in sorted(values.keys() & to.keys())]


def bandwidth_share(
    rates: Mapping[Round, float], bytes_per_token: float, bandwidth: Mapping[Round, float]
) -> list[float]:
    """Share of the bandwidth that was measured in the same round: weight bytes x tokens per second over bytes/s."""
    return [bytes_per_token * ratio for ratio in ratios(rates, bandwidth)]
