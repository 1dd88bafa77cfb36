"""The next token from logits, in NumPy: the same distribution as transformers' logits processors give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sparseact.errors import NotFiniteError
from sparseact.generation.sampling import Sampling
from sparseact.models.formats import Floats

Doubles = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int64]


class Sampler:
    """Chooses token after token; what is drawn depends on the seed and on the logits alone."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed % 2**64)

    def choose(self, logits: Floats, seen: Sequence[int]) -> int:
        """A token for logits [vocabulary], after a text with the tokens `seen`.

        Raises:
            NotFiniteError: the highest logit is not a finite number, as damaged weights give.
        """
        logits = penalise(logits, seen, self._sampling.repetition_penalty)
        check_finite(logits)
        if not self._sampling.draws:
            return int(logits.argmax())
        tokens, scaled = candidates(logits, self._sampling)
        shares = np.cumsum(np.exp(scaled))
        drawn = np.searchsorted(shares, self._random.random() * shares[-1], side="right")
        return int(tokens[drawn])


def check_finite(logits: Floats) -> None:
    """Refuse logits of which the highest is not a finite number, as damaged weights give.

    Raises:
        NotFiniteError: says so.
    """
    if not np.isfinite(logits.max()):
        raise NotFiniteError


def penalise(logits: Floats, seen: Sequence[int], penalty: float) -> Floats:
    """Logits with those of the tokens `seen` divided by the penalty, or multiplied if negative."""
    if penalty == 1 or not len(seen):
        return logits
    tokens = np.unique(np.asarray(seen, np.int64))
    penalised = logits.copy()
    there = logits[tokens]
    penalised[tokens] = np.where(there < 0, there * penalty, there / penalty)
    return penalised


def candidates(logits: Floats, sampling: Sampling) -> tuple[Tokens, Doubles]:
    """The tokens among which one is drawn, and their logits over the temperature, less the highest of them.

    Their probabilities are in proportion to the exponentials of these.
    """
    tokens = _most_likely(logits, sampling.top_k)
    # Less the highest first: a small temperature then makes the others 0, where it would make the highest infinite.
    scaled = (logits[tokens].astype(np.float64) - logits.max()) / sampling.temperature
    if sampling.top_p < 1:
        kept = _nucleus(scaled, sampling.top_p)
        tokens, scaled = tokens[kept], scaled[kept]
    if sampling.min_p > 0:
        kept = np.flatnonzero(scaled >= np.log(sampling.min_p))
        tokens, scaled = tokens[kept], scaled[kept]
    return tokens, scaled


def _most_likely(logits: Floats, k: int) -> Tokens:
    """The k tokens with the highest logits, those as high as the k-th with them; all if k is 0."""
    if not 0 < k < len(logits):
        return np.arange(len(logits))
    return np.flatnonzero(logits >= np.partition(logits, -k)[-k])


def _nucleus(scaled: Doubles, share: float) -> Tokens:
    """Places of the fewest highest whose exponentials hold this share of the sum, the highest first."""
    total = np.exp(scaled).sum()
    # Most of the time a few hold it, and sorting all would take longer than the model does.
    for size in (256, 8192, len(scaled)):
        some = np.argpartition(scaled, -size)[-size:] if size < len(scaled) else np.arange(len(scaled))
        places = some[np.argsort(-scaled[some], kind="stable")]
        shares = np.exp(scaled[places]) / total
        sums = np.cumsum(shares)
        if sums[-1] >= share:
            break
    return places[sums - shares < share]
