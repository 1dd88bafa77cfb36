"""Schedules: plain callables from a step to a number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from sparseact.errors import InputError


@dataclass(frozen=True)
class StagedSine:
    """l_{i-1} + (l_i - l_{i-1}) (sin(-pi/2 + pi (t - T_{i-1}) / (T_i - T_{i-1})) + 1) / 2 in stage i; l_1 up to T_1.

    ProSparse, arXiv 2402.13516, algorithm 1. Two equal peaks hold; after the last stage the last peak stays.

    Attributes:
        peaks: l_1 to l_S.
        ends: T_1 to T_S, rising.
    """

    peaks: tuple[float, ...]
    ends: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse stages that are none."""
        if not self.ends or len(self.peaks) != len(self.ends) or any(b <= a for a, b in pairwise((0, *self.ends))):
            raise InputError(f"ends: {self.ends} for peaks {self.peaks}; give one rising step for each")

    def __call__(self, step: float) -> float:
        """The value at a step."""
        stages = zip(pairwise(self.peaks), pairwise(self.ends), strict=True)
        for (before, peak), (start, end) in stages:
            if start < step <= end:
                share = (math.sin(-math.pi / 2 + math.pi * (step - start) / (end - start)) + 1) / 2
                return before + share * (peak - before)
        return self.peaks[0] if step <= self.ends[0] else self.peaks[-1]


@dataclass(frozen=True)
class Geometric:
    """start (end / start)^(t / steps), then end: such as the eps of a smooth L0, from large to small.

    Attributes:
        start, end: positive.
        steps: at least 1.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse what has no logarithm."""
        if min(self.start, self.end) <= 0 or self.steps < 1:
            raise InputError(f"start: {self.start} to {self.end} in {self.steps} steps; numbers above 0 are needed")

    def __call__(self, step: float) -> float:
        """The value at a step."""
        return self.start * (self.end / self.start) ** min(max(step / self.steps, 0.0), 1.0)
