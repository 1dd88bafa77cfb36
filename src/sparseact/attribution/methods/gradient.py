"""Gradient: s = -mean_d(g), signed as published."""

from sparseact.attribution.base import Metric, Units, UnitScores


class SignedGradient(Metric):
    """How the loss falls as the unit's output grows (Song et al. 2024, table 2 and released code)."""

    name, title = "gradient", "gradient"
    reads = "own"
    place = 60
    colour, marker = "#B01010", "P"

    def score(self, x: Units, gradient: Units) -> UnitScores:
        """-mean_d(g); the output is not read."""
        return -gradient.mean(dim=-1)
