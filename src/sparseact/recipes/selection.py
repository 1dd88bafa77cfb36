"""What every selector comes down to, on torch and in compiled code: one of five rules, with its numbers."""

from dataclasses import dataclass

EVERYTHING, THRESHOLD, DEVIATIONS, MASS, HIGHEST = range(5)
"""Rules: no unit is off; scores above a number; above their mean plus that many standard deviations; the fewest
that hold that share of their sum; the highest of each group."""


@dataclass(frozen=True)
class Selection:
    """A rule and its numbers, for scores that are not negative.

    Attributes:
        rule: one of the above.
        number: the threshold, the standard deviations, or the share.
        group: units of a group, of the last rule; all units, or as many as divide them.
        keep: how many of each group are on.
    """

    rule: int
    number: float = 0.0
    group: int = 0
    keep: int = 0
