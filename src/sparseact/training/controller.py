"""Feedback: a number, or one per unit, is moved until what is measured meets its target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Law = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(value, measured, target) to the next value."""


@dataclass
class Controller:
    """One feedback loop: `value` is what is set, `update` tells it what came of it.

    Attributes:
        value: [...] the number that is moved: a threshold, a coefficient, a bias.
        target: [...] what shall be measured.
        law: how it is moved: `multiplicative`, `additive_bias`, or a `RatioDriven`.
    """

    value: Tensor
    target: Tensor
    law: Law

    def update(self, measured: Tensor) -> Tensor:
        """Move the value once, and return it."""
        with torch.no_grad():
            self.value = self.law(self.value, measured, self.target)
        return self.value

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs of it."""
        return {"value": self.value}


def multiplicative(gain: float) -> Law:
    """A step v <- v exp(gain (measured - target)): a threshold rises while too much is on (as ReMoE does)."""
    return lambda value, measured, target: value * torch.exp(gain * (measured - target))


def additive(gain: float) -> Law:
    """A step v <- v + gain (measured - target)."""
    return lambda value, measured, target: value + gain * (measured - target)


def additive_bias(step: float) -> Law:
    """B <- b + step (sign(e) - mean sign(e)), e = target - measured (Ling 2.0, arXiv 2510.22115; the sum stays 0)."""

    def law(value: Tensor, measured: Tensor, target: Tensor) -> Tensor:
        sign = torch.sign(target - measured)
        return value + step * (sign - sign.mean())

    return law


@dataclass
class RatioDriven:
    """A penalty's coefficient times r = mean(last n losses) / mean(the n before), by 1.025 at least if r > 1.

    BlockFFN (arXiv 2507.08771): constant for `warmup` updates, then moved every `every`, in a straight line over the
    next `every`, to no more than `cap` times where it began. The penalty pushes harder when its loss rises.
    """

    warmup: int = 1000
    every: int = 100
    cap: float = 4.0
    least: float = 1.025
    _losses: list[float] = field(default_factory=list)
    _line: tuple[float, float] | None = None
    _first: float = math.nan

    def __call__(self, value: Tensor, measured: Tensor, target: Tensor) -> Tensor:
        """The next coefficient, from the penalty's loss; it has no target."""
        if self._line is None:
            self._first = float(value)
            self._line = (self._first, self._first)
        self._losses.append(float(measured))
        seen = len(self._losses)
        if seen >= self.warmup and seen >= 2 * self.every and seen % self.every == 0:
            last, before = (sum(self._losses[seen - n : seen - n + self.every]) for n in (self.every, 2 * self.every))
            ratio = last / before
            factor = max(self.least, ratio) if ratio > 1 else ratio
            self._line = (self._line[1], min(self._line[1] * factor, self.cap * self._first))
        start, end = self._line
        done = (seen % self.every) / self.every
        return torch.as_tensor(start + (end - start) * done, dtype=value.dtype)
