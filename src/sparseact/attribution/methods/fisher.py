"""Fisher: s = mean_d(g x)^2, which ranks as SNIP does."""

from sparseact.attribution.base import Metric, Units, UnitScores


class Fisher(Metric):
    """The Fisher information of a unit's gate (Theis et al. 2018)."""

    name, title = "fisher", "Fisher"
    reads = "own"
    place = 50
    colour, marker = "#10BBE8", "v"

    def score(self, x: Units, gradient: Units) -> UnitScores:
        """mean_d(g x)^2."""
        return (gradient * x).mean(dim=-1).square()
