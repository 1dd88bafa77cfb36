"""What every attribution method has in common: a score per unit from its output and its gradient."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    Units = Float[Tensor, "*batch units size"]
    UnitScores = Float[Tensor, "*batch units"]
else:  # what reads names and colours needs no torch
    Units = UnitScores = Any

Gradient = Literal["none", "own", "path"]
"""Which gradient a metric reads: none, the one at the unit's output, or its mean along the path
from 0 to the output (integrated gradients)."""


class Metric(ABC):
    """How much a unit matters; higher is kept. A neuron is a unit of size 1, a head of head_dim.

    What the constructor of a metric takes are its options, by the names of `MetricOptions`.

    Attributes:
        name: in options and tables.
        title: for people; the name if empty.
        reads: which gradient `score` is given.
        place: in legends and tables, lower first; oracles come before all others.
        colour: in pictures, #rrggbb; one that is free if empty.
        marker: in pictures, matplotlib's: one of o s D ^ v P X.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    reads: ClassVar[Gradient]
    place: ClassVar[int] = 85
    colour: ClassVar[str] = ""
    marker: ClassVar[str] = "X"

    @classmethod
    def is_oracle(cls) -> bool:
        """Whether the scores have seen the label, so that no running model could have them."""
        return cls.reads != "none"

    @abstractmethod
    def score(self, x: Units, gradient: Units) -> UnitScores:
        """Score every unit of every token from its output and the loss's gradient there."""
