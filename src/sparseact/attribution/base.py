"""What every metric has in common: a score per unit from its output and its gradient."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

from jaxtyping import Float
from torch import Tensor

Gradient = Literal["none", "own", "path"]
"""Which gradient a metric reads: none, the one at the unit's output, or its mean along the path
from 0 to the output (integrated gradients)."""


class Metric(Protocol):
    """How much a unit matters; higher is kept. A neuron is a unit of size 1, a head of head_dim.

    A metric that reads a gradient used the label: its masks are an oracle's, not a run-time policy's.
    """

    name: ClassVar[str]
    reads: ClassVar[Gradient]

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score every unit of every token from its output and the loss's gradient there."""
        ...
