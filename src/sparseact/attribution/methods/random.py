"""Random: s ~ U(0, 1), the control that every metric must beat."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sparseact.attribution.base import Gradient


@dataclass(frozen=True)
class Random:
    """Uniform scores from a generator of its own, so that the same seed gives the same masks."""

    seed: int = 0
    name: ClassVar[str] = "random"
    reads: ClassVar[Gradient] = "none"
    _generator: torch.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_generator", torch.Generator().manual_seed(self.seed))

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score [..., units] for outputs [..., units, size], whatever they are."""
        return torch.rand(x.shape[:-1], generator=self._generator).to(x)
