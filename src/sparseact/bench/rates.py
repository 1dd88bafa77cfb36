"""What is made of measured times: rates, ratios of the same round, and what may not be reported."""

from __future__ import annotations

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
    """Perplexities of the same tokens: an engine's, and its reference's (the same weights and recipe in float32).

    Attributes:
        decode, decode_reference: the predicted tokens read one by one.
        prefill, prefill_reference: read in pieces, as prompts are; of some of the tokens.
    """

    decode: float
    decode_reference: float
    prefill: float
    prefill_reference: float

    def refusal(self) -> str | None:
        """Why the engine gets no row; None if both perplexities are within 5% of the reference."""
        pairs = {
            "decode": (self.decode, self.decode_reference),
            "prefill": (self.prefill, self.prefill_reference),
        }
        wrong = [
            f"{phase} perplexity {found:.4g} where the reference has {reference:.4g} ({found / reference - 1:+.1%})"
            for phase, (found, reference) in pairs.items()
            if not abs(found / reference - 1) <= TOLERANCE  # also NaN
        ]
        return "; ".join(wrong) or None


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
