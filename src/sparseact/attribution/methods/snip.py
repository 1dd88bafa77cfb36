"""SNIP: s = |mean_d(g x)|, how far the loss moves, either way, when the unit is switched off."""

from sparseact.attribution.base import Metric, Units, UnitScores


class SNIP(Metric):
    """The connection sensitivity of a unit (Lee et al. 2019, eq. 4, per token)."""

    name, title = "snip", "SNIP"
    reads = "own"
    place = 40
    colour, marker = "#2B8846", "^"

    def score(self, x: Units, gradient: Units) -> UnitScores:
        """|mean_d(g x)|."""
        return (gradient * x).mean(dim=-1).abs()
