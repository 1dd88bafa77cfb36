"""Gradient x output: s = -mean(g x), to first order the loss that switching the unit off adds."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sparseact.attribution.base import Gradient


@dataclass(frozen=True)
class GxO:
    """s = -mean_d(g x) (Song et al. 2024, eq. of S(F, X))."""

    name: ClassVar[str] = "gxo"
    reads: ClassVar[Gradient] = "own"

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score [..., units] of outputs and gradients [..., units, size]."""
        return -(gradient * x).mean(dim=-1)
