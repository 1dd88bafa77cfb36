"""Integrated gradients: s = -mean_d(x * mean_k g(k/n x)), the path from 0 to the unit's output.

The gradients come from attribution/path.py, by default as many as in Song et al. 2024. The sum over a layer's units
telescopes to the loss that switching them all off adds, unless the block norms its output (Gemma 2 and 3): that does
not change when all units are scaled alike, so the sum is near 0 whatever the units do. The same holds for GxO.
"""

from sparseact.attribution.base import Metric, Units, UnitScores

STEPS = 20


class IntegratedGradients(Metric):
    """GxO along the path on which all units of a layer go off together (Sundararajan et al. 2017, eq. 3)."""

    name, title = "ig", "IG"
    reads = "path"
    place = 30
    colour, marker = "#963F96", "D"

    def score(self, x: Units, gradient: Units) -> UnitScores:
        """-mean_d(g x), `gradient` being the mean along the path."""
        return -(gradient * x).mean(dim=-1)
