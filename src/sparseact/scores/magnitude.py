"""Magnitude: s = |x|, a head's s = ||x||_2. Needs no label."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparseact.scores.metric import Gradient


@dataclass(frozen=True)
class Magnitude:
    """s = ||x||_2 (Song et al. 2024, table 2)."""

    name: str = "magnitude"
    reads: Gradient = "none"

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score [..., units] of outputs [..., units, size]; the gradient is not read."""
        return x.norm(dim=-1)
