"""Corrected GxO: s = -mean_d(g x) + c ||x||_2 ||g_layer||_2, the metric of the paper.

The corrective term is the middle of the error bound of Theorem 3.3 (Cauchy-Schwarz); within a layer
and token it is a magnitude prior. c = 0.5 as published; `auto` is a / sqrt(units), because a gradient's
typical component is ||g|| / sqrt(units), with an a for neurons and one for heads that were tuned on
half of the built-in questions (benchmarks/tune_correction.py, docs/results/song2024.md).
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from sparseact.attribution.base import Metric, Units, UnitScores
from sparseact.errors import InputError, unknown_name

AUTO_NEURONS, AUTO_HEADS = 6.0, 1.0

Correction = float | Literal["auto"]
HeadsFormula = Literal["released", "theorem"]
"""A head's sums over head_dim: `released` takes means of g x and of g, as the authors' code does;
`theorem` takes the full inner product and norm, as Theorem 3.3 says. The same for neurons."""


@dataclass(frozen=True)
class CorrectedGxO(Metric):
    """GxO and the middle of its error bound (Song et al. 2024, theorem 3.3).

    Attributes:
        correction: c, or "auto" for 6 / sqrt(neurons) and 1 / sqrt(heads).
        heads_formula: see `HeadsFormula`.

    Raises:
        InputError: one is something else.
    """

    correction: Correction = 0.5
    heads_formula: HeadsFormula = "released"

    name, title = "corrected-gxo", "corrected GxO"
    reads = "own"
    place = 10
    colour, marker = "#E0670A", "o"

    def __post_init__(self) -> None:
        if self.correction != "auto" and not 0 <= self.correction < math.inf:
            raise InputError(f"correction: {self.correction} is not a number of at least 0, or auto")
        if self.heads_formula not in get_args(HeadsFormula):
            raise unknown_name("heads_formula: unknown formula", self.heads_formula, get_args(HeadsFormula))

    def score(self, x: Units, gradient: Units) -> UnitScores:
        """-mean_d(g x) + c ||x||_2 ||g||_2, the last norm over all units of the layer."""
        c = self.correction
        if c == "auto":
            c = (AUTO_NEURONS if x.shape[-1] == 1 else AUTO_HEADS) / x.shape[-2] ** 0.5
        if self.heads_formula == "released":
            gxo, norm = -(gradient * x).mean(dim=-1), gradient.mean(dim=-1).norm(dim=-1)
        else:
            gxo, norm = -(gradient * x).sum(dim=-1), gradient.flatten(-2).norm(dim=-1)
        return gxo + c * x.norm(dim=-1) * norm.unsqueeze(-1)
