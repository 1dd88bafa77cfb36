"""Magnitude: s = ||x||_2, a neuron's |x|. Needs no label."""

from sparseact.attribution.base import Metric, Units, UnitScores


class Magnitude(Metric):
    """How large the unit's output is (Song et al. 2024, table 2)."""

    name, title = "magnitude", "magnitude"
    reads = "none"
    place = 80
    colour, marker = "#0086E3", "o"

    def score(self, x: Units, gradient: Units) -> UnitScores:
        """||x||_2; the gradient is not read."""
        return x.norm(dim=-1)
