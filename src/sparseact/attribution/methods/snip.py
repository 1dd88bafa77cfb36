"""SNIP: s = |mean(g x)|; Fisher: s = mean(g x)^2, which ranks the same."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sparseact.attribution.base import Gradient


@dataclass(frozen=True)
class SNIP:
    """s = |mean_d(g x)| (Lee et al. 2019, eq. 4, per token)."""

    name: ClassVar[str] = "snip"
    reads: ClassVar[Gradient] = "own"

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score [..., units] of outputs and gradients [..., units, size]."""
        return (gradient * x).mean(dim=-1).abs()


@dataclass(frozen=True)
class Fisher:
    """s = mean_d(g x)^2, the Fisher information of a unit's gate (Theis et al. 2018)."""

    name: ClassVar[str] = "fisher"
    reads: ClassVar[Gradient] = "own"

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score [..., units] of outputs and gradients [..., units, size]."""
        return (gradient * x).mean(dim=-1).square()
