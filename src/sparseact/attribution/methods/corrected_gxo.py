"""Corrected GxO: s = -mean(g x) + c ||x|| ||g_layer||, the paper's metric.

The corrective term is the middle of the error bound of Theorem 3.3 (Cauchy-Schwarz); within a layer
and token it is a magnitude prior. c = 0.5 as published; `auto` is a / sqrt(units), because a gradient's
typical component is ||g|| / sqrt(units), with an a for neurons and one for heads that were tuned on
half of the built-in questions (benchmarks/tune_correction.py, docs/results/song2024.md).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from sparseact.attribution.base import Gradient

AUTO_NEURONS, AUTO_HEADS = 6.0, 1.0

HeadsFormula = Literal["released", "theorem"]
"""A head's sums over head_dim: `released` takes means of g x and of g, as the authors' code does;
`theorem` takes the full inner product and norm, as Theorem 3.3 says. The same for neurons."""


@dataclass(frozen=True)
class CorrectedGxO:
    """s = -mean_d(g x) + c ||x||_2 ||g||_2 over the layer's units (Song et al. 2024, theorem 3.3).

    Attributes:
        correction: c, or "auto" for 6 / sqrt(neurons) and 1 / sqrt(heads).
        heads_formula: see `HeadsFormula`.
    """

    correction: float | Literal["auto"] = 0.5
    heads_formula: HeadsFormula = "released"
    name: ClassVar[str] = "corrected-gxo"
    reads: ClassVar[Gradient] = "own"

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score [..., units] of outputs and gradients [..., units, size]."""
        c = self.correction
        if c == "auto":
            c = (AUTO_NEURONS if x.shape[-1] == 1 else AUTO_HEADS) / x.shape[-2] ** 0.5
        if self.heads_formula == "released":
            gxo, norm = -(gradient * x).mean(dim=-1), gradient.mean(dim=-1).norm(dim=-1)
        else:
            gxo, norm = -(gradient * x).sum(dim=-1), gradient.flatten(-2).norm(dim=-1)
        return gxo + c * x.norm(dim=-1) * norm.unsqueeze(-1)
