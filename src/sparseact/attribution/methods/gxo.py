"""Gradient x output: s = -mean_d(g x), to first order the loss that switching the unit off adds."""

from sparseact.attribution.base import Metric, Units, UnitScores


class GxO(Metric):
    """The attribution of a unit (Song et al. 2024, eq. of S(F, X))."""

    name, title = "gxo", "GxO"
    reads = "own"
    place = 20
    colour, marker = "#E1AA90", "s"

    def score(self, x: Units, gradient: Units) -> UnitScores:
        """-mean_d(g x)."""
        return -(gradient * x).mean(dim=-1)
