"""Absolute gradient: s = mean_d |g|, sensitivity to the unit, whichever way it moves."""

from sparseact.attribution.base import Metric, Units, UnitScores


class AbsoluteGradient(Metric):
    """What the signed gradient leaves out; from no paper."""

    name, title = "gradient-abs", "|gradient|"
    reads = "own"
    place = 70
    colour, marker = "#3A46F0", "X"

    def score(self, x: Units, gradient: Units) -> UnitScores:
        """mean_d|g|; the output is not read."""
        return gradient.abs().mean(dim=-1)
