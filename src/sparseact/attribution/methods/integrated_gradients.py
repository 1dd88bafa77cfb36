"""Integrated gradients: s = -mean_d(x g_path), g_path the mean gradient from 0 to x (Sundararajan et al. 2017, eq. 3).

The gradients come from attribution/path.py, by default as many as in Song et al. 2024. The sum over a layer's units
telescopes to the loss that switching them all off adds.
"""

from sparseact.attribution.base import Metric, Units, UnitScores

STEPS = 20


class IntegratedGradients(Metric):
    """The loss that switching the unit off adds, along the path on which all of its layer go off together."""

    name, title = "ig", "IG"
    reads = "path"
    place = 30
    colour, marker = "#963F96", "D"

    def score(self, x: Units, gradient: Units) -> UnitScores:
        """-mean_d(x g_path); `gradient` is g_path."""
        return -(gradient * x).mean(dim=-1)
