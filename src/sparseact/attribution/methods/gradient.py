"""Gradient: s = -mean(g) as published, or s = mean|g|."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sparseact.attribution.base import Gradient


@dataclass(frozen=True)
class SignedGradient:
    """s = -mean_d(g), signed as published (Song et al. 2024, table 2 and released code)."""

    name: ClassVar[str] = "gradient"
    reads: ClassVar[Gradient] = "own"

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score [..., units] of gradients [..., units, size]; the output is not read."""
        return -gradient.mean(dim=-1)


@dataclass(frozen=True)
class AbsoluteGradient:
    """s = mean_d|g|: sensitivity to the unit, whichever way it moves."""

    name: ClassVar[str] = "gradient-abs"
    reads: ClassVar[Gradient] = "own"

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score [..., units] of gradients [..., units, size]; the output is not read."""
        return gradient.abs().mean(dim=-1)
