"""Which units of a token are on, in compiled code: the rules of `sparseact.recipes.selection`, without a sort.

Each rule comes down to a number that the scores of the units that are on are above. Where that takes
the scores of all of a token's units, every thread of a team finds it for itself.
"""

from typing import Any

import numpy as np

from sparseact.engine.simd.jit import compiled
from sparseact.engine.simd.reduce import count_below, total_above, total_of, total_of_squares
from sparseact.recipes.selection import DEVIATIONS, HIGHEST, MASS


@compiled
def select_rows(rule: int, number: float, group: int, keep: int, scores: Any, on: Any) -> None:
    """Set on [tokens, units] to whether each unit is on, by scores >= 0 of the same shape, which are overwritten."""
    tokens, units = scores.shape
    for token in range(tokens):
        row = scores[token]
        limit = find_threshold(rule, number, group, keep, row, units)
        for j in range(units):
            on[token, j] = row[j] > limit


@compiled
def find_threshold(rule: int, number: Any, group: int, keep: int, scores: Any, n: int) -> Any:
    """The number that scores[:n], none below 0, are above where the unit is on; others may be set to -1."""
    if rule == DEVIATIONS:
        return _above_mean(scores, n, np.float32(number))
    if rule == MASS:
        return _holding(scores, n, np.float32(number))
    if rule == HIGHEST:
        for start in range(0, n, group):
            _keep_highest(scores[start : start + group], group, keep)
        return np.float32(-0.5)
    return np.float32(number)


@compiled
def _above_mean(scores: Any, n: int, deviations: Any) -> Any:
    """The mean of the scores plus a number of their standard deviations."""
    mean = total_of(scores, n) / np.float32(n)
    variance = total_of_squares(scores, n, mean) / np.float32(n)
    return mean + deviations * max(np.float32(np.sqrt(variance)), np.float32(1e-12))


@compiled
def _holding(scores: Any, n: int, mass: Any) -> Any:
    """The largest number such that the scores above it hold less than a share of all: those at it are on too.

    Returned is the number before it. Scores that are equal are on or off together.
    """
    wanted = mass * total_above(scores, n, np.float32(-1))
    low, high = 0, _highest(scores, n)  # above `low` is enough, above `high` is not
    while high - low > 1:
        middle = (low + high) // 2
        if total_above(scores, n, _float_of(middle)) >= wanted:
            low = middle
        else:
            high = middle
    return _float_of(low)


@compiled
def _keep_highest(scores: Any, n: int, keep: int) -> None:
    """Set to -1 all but the `keep` highest of the scores; of equal ones the first stay.

    Floats that are not negative have the order of their bits as integers: the limit is found between these.
    """
    low, high = 0, _highest(scores, n)
    while low < high:  # at least `keep` are no lower than `low`, and the last of them is no higher than `high`
        middle = (low + high + 1) // 2
        count = n - count_below(scores, n, _float_of(middle))
        if count == keep:
            low = high = middle
        elif count > keep:
            low = middle
        else:
            high = middle - 1
    limit = _float_of(low)
    # How many of those at the limit are on: all that are not lower than the number after it are on anyway.
    left = keep - (n - count_below(scores, n, _float_of(low + 1)))
    for j in range(n):
        if scores[j] < limit or (scores[j] == limit and left <= 0):
            scores[j] = np.float32(-1)
        elif scores[j] == limit:
            left -= 1


@compiled
def _highest(scores: Any, n: int) -> int:
    """The highest score's bits."""
    highest = 0
    for j in range(n):
        bits = int(np.float32(scores[j]).view(np.int32))
        highest = max(highest, bits)
    return highest


@compiled
def _float_of(bits: int) -> Any:
    return np.int32(bits).view(np.float32)
