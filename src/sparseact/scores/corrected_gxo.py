"""Corrected GxO: s = -mean(g x) + c ||x|| ||g_layer||, the paper's metric.

The corrective term is the middle of the error bound of Theorem 3.3 (Cauchy-Schwarz); within a layer
and token it is a magnitude prior. c = 0.5 as published; `auto` is c = 2 / sqrt(units), the scale at
which the two terms balance, because a gradient's typical component is ||g|| / sqrt(units).
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from sparseact.scores.metric import Gradient

AUTO_SCALE = 2.0

HeadsFormula = Literal["released", "theorem"]
"""A head's sums over head_dim: `released` takes means of g x and of g, as the authors' code does;
`theorem` takes the full inner product and norm, as Theorem 3.3 says. The same for neurons."""


@dataclass(frozen=True)
class CorrectedGxO:
    """s = -mean_d(g x) + c ||x||_2 ||g||_2 over the layer's units (Song et al. 2024, theorem 3.3).

    Attributes:
        correction: c, or "auto" for 2 / sqrt(units).
        heads_formula: see `HeadsFormula`.
    """

    correction: float | Literal["auto"] = 0.5
    heads_formula: HeadsFormula = "released"
    name: str = "corrected-gxo"
    reads: Gradient = "own"

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score [..., units] of outputs and gradients [..., units, size]."""
        units = x.shape[-2]
        c = AUTO_SCALE / units**0.5 if self.correction == "auto" else self.correction
        if self.heads_formula == "released":
            gxo, norm = -(gradient * x).mean(dim=-1), gradient.mean(dim=-1).norm(dim=-1)
        else:
            gxo, norm = -(gradient * x).sum(dim=-1), gradient.flatten(-2).norm(dim=-1)
        return gxo + c * x.norm(dim=-1) * norm.unsqueeze(-1)
