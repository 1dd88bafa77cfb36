"""How sure a perplexity beside another is: windows of a text drawn again, the same ones for both models."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000


def ratio_interval(
    more: npt.ArrayLike, tokens: npt.ArrayLike, rng: np.random.Generator | None = None
) -> tuple[float, float] | None:
    """Ends of the 95% interval of perplexity over another one's, by the paired bootstrap over windows.

    It says how much another text of the kind would move the ratio, and nothing of another calibration. Of few windows
    it is too narrow.

    Args:
        more: negative log-likelihood less that of the other model, summed over each window's tokens [windows], nats.
        tokens: of each window [windows].
        rng: draws the windows; the same ones each time if None.

    Returns:
        None if there are fewer than two windows.
    """
    more, tokens = np.asarray(more, np.float64), np.asarray(tokens, np.float64)
    if len(more) < 2:
        return None
    drawn = (rng or np.random.default_rng(0)).integers(len(more), size=(RESAMPLES, len(more)))
    with np.errstate(over="ignore"):
        low, high = np.exp(np.quantile(more[drawn].sum(axis=1) / tokens[drawn].sum(axis=1), (0.025, 0.975)))
    return float(low), float(high)
