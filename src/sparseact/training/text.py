"""Texts as windows to train on, mixed in proportion, and the tail of each that is kept for measuring."""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparseact.errors import InputError

HELD_OUT = 8
"""Windows at most of the tail that is kept for measuring."""

GOLDEN = 0.6180339887498949
"""(sqrt(5) - 1) / 2: multiples of it, modulo 1, are spread as evenly as can be."""


@dataclass(frozen=True)
class Source:
    """One text.

    Attributes:
        name: of its file, or `own`.
        ids: int32, to train on.
        held_out: [windows, tokens] of its tail, the BOS token first where the tokenizer has one.
    """

    name: str
    ids: NDArray[np.int32]
    held_out: Tensor

    @property
    def sha256(self) -> str:
        """Of all its tokens."""
        return hashlib.sha256(self.ids.tobytes() + self.held_out.numpy().tobytes()).hexdigest()


def split_text(name: str, ids: Sequence[int] | NDArray[np.int32], *, window: int, bos: int | None) -> Source:
    """Keep a tenth of a text, 1 to `HELD_OUT` windows at its end, for measuring.

    Raises:
        InputError: it is shorter than two windows.
    """
    tokens = np.asarray(ids, np.int32)
    own = window - (bos is not None)
    whole = len(tokens) // own
    if whole < 2:
        raise InputError(
            f"text: {name}: {len(tokens)} tokens are fewer than two windows of {window}, one to train on and one to "
            "measure on; a longer text or a smaller `window` is needed"
        )
    held = min(HELD_OUT, max(1, whole // 10))
    first = len(tokens) - held * own
    tail = torch.from_numpy(tokens[first:].astype(np.int64)).view(held, own)
    return Source(name, tokens[:first], _with_bos(tail, bos))


@dataclass(frozen=True)
class Mix:
    """Several texts in proportion.

    Attributes:
        sources: at least one.
        shares: of each; they sum to 1.
        window: tokens of a window.
        bos: stands first in each, if there is one.
        seed: of where windows begin.
    """

    sources: tuple[Source, ...]
    shares: tuple[float, ...]
    window: int
    bos: int | None
    seed: int

    def draw(self, step: int, batch: int) -> Tensor:
        """The windows [batch, window] of a step, which depend on the seed and the step alone: so a run can go on."""
        random = np.random.default_rng([self.seed, step])
        own = self.window - (self.bos is not None)
        rows = []
        for place in range(step * batch, (step + 1) * batch):
            ids = self.sources[self._source_at(place)].ids
            start = int(random.integers(0, len(ids) - own + 1))
            rows.append(ids[start : start + own].astype(np.int64))
        return _with_bos(torch.from_numpy(np.stack(rows)), self.bos)

    def _source_at(self, place: int) -> int:
        ends = list(accumulate(self.shares))
        return min(bisect(ends, place * GOLDEN % 1), len(ends) - 1)


def shares_of(proportions: Sequence[float], texts: int) -> tuple[float, ...]:
    """The share of each text, equal if no proportions are given.

    Raises:
        InputError: they are not one positive number for each text, or there is no text.
    """
    if not texts:
        raise InputError("text: none was given; give files, or own")
    given = tuple(proportions) or (1.0,) * texts
    if len(given) != texts or min(given) <= 0:
        raise InputError(
            f"proportions: {', '.join(f'{share:g}' for share in given)} for {texts} texts; give one positive number "
            "for each"
        )
    return tuple(share / sum(given) for share in given)


def as_text(sources: Sequence[Source], tokenizer: Any, *, pieces: int = 32, length: int = 512) -> str:
    """Pieces of what is trained on, spread evenly over each text, as text: what a policy is calibrated on."""
    texts = []
    for source in sources:
        count = max(1, min(pieces // len(sources), len(source.ids) // length))
        starts = np.linspace(0, max(0, len(source.ids) - length), count).astype(int)
        texts += [tokenizer.decode(source.ids[start : start + length].tolist()) for start in starts]
    return "\n\n".join(texts)


def _with_bos(windows: Tensor, bos: int | None) -> Tensor:
    if bos is None:
        return windows
    return torch.cat([windows.new_full((len(windows), 1), bos), windows], dim=1)
