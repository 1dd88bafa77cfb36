"""Magnitude: s = |x|, a head's s = ||x||_2. Needs no label."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sparseact.attribution.base import Gradient


@dataclass(frozen=True)
class Magnitude:
    """s = ||x||_2 (Song et al. 2024, table 2)."""

    name: ClassVar[str] = "magnitude"
    reads: ClassVar[Gradient] = "none"

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score [..., units] of outputs [..., units, size]; the gradient is not read."""
        return x.norm(dim=-1)
