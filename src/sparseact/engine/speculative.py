"""Greedy text of the dense model, guessed by the sparse one: self-speculation (Zhang et al. 2024, arXiv 2309.08168).

The sparse model drafts some tokens, one pass of the dense one over all of them says which it would have chosen itself,
and those before the first other one are kept (Leviathan et al. 2023, arXiv 2211.17192). Both have the same weights
in memory. Keys and values of the draft are overwritten by the dense ones.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from sparseact.engine.forward.batch import MOST, batch_of, dense_tables
from sparseact.engine.forward.entries import run_verifying
from sparseact.engine.forward.state import DENSE, FOUND, GIVEN, POSITION, Buffers, Sizes, Tables
from sparseact.engine.simd.entry import Call
from sparseact.engine.threads import Team

OF_SECONDS, OF_ACCEPTANCE = 0.1, 0.03
"""Weights of the newest in running means. Acceptance is 0 or 1 each time, and needs a longer memory."""
PROBE = 64
"""Tokens found without a draft after which one is tried, to see whether it pays by now."""


class DraftLength:
    """How many tokens to draft, from what was measured.

    Attributes:
        acceptance: running mean of whether a drafted token was accepted, those after a refused one not counted.
        draft_seconds: running mean of a drafted token's time; 0 before the first one.
        pass_seconds: running mean of the time of a dense pass, by its number of tokens.
    """

    def __init__(self) -> None:
        """Begin hopefully, so that drafts are tried."""
        self.acceptance, self.draft_seconds = 0.9, 0.0
        self.pass_seconds: dict[int, float] = {}
        self._without = 0

    def choose(self, most: int) -> int:
        """Tokens to draft before the next pass, at most `most`."""
        # The rule: n drafted tokens and a pass over n + 1 give 1 + a + ... + a^n tokens, a being the acceptance.
        # Take the n of the least time per token; 0, a plain dense step, where no draft pays.
        lengths = range(min(most, MOST - 1) + 1)
        chosen = min(lengths, key=self._seconds_per_token)
        self._without = 0 if chosen else self._without + 1
        if self._without > PROBE and len(lengths) > 1:
            self._without, chosen = 0, 1
        return chosen

    def measured(self, drafted: int, accepted: int, draft_seconds: float, pass_seconds: float) -> None:
        """Note one draft and its pass."""
        if drafted:
            self.draft_seconds = _mean(self.draft_seconds or None, draft_seconds / drafted, OF_SECONDS)
        for good in [1] * accepted + [0] * (accepted < drafted):
            self.acceptance = _mean(self.acceptance, good, OF_ACCEPTANCE)
        tokens = drafted + 1
        self.pass_seconds[tokens] = _mean(self.pass_seconds.get(tokens), pass_seconds, OF_SECONDS)

    def _seconds_per_token(self, drafted: int) -> float:
        # A pass of a length that was never run is taken to cost what the next shorter one does, and so gets tried.
        known = [tokens for tokens in self.pass_seconds if tokens <= drafted + 1]
        seconds = self.pass_seconds[max(known)] if known else 0.0
        return (drafted * self.draft_seconds + seconds) / sum(self.acceptance**k for k in range(drafted + 1))


def _mean(before: float | None, new: float, weight: float) -> float:
    return new if before is None else before + weight * (new - before)


class Speculation:
    """Dense passes and sparse drafts on the buffers of an engine.

    Attributes:
        lead, help: what the leader and the helpers of a team run.
        length: of the drafts.
        logits_are_finite: whether those of the last run are.
        passes, drafted, accepted: counts of dense passes, of drafted tokens and of those that were kept.
    """

    def __init__(self, sizes: Sizes, tables: Tables, buffers: Buffers) -> None:
        """See `step.run` for the arguments."""
        self._buffers, self._batch = buffers, batch_of(sizes, tables, buffers)
        arguments = sizes, tables, dense_tables(tables), buffers, self._batch
        self.lead = Call(run_verifying, (*arguments, 0))
        self.help = partial(run_verifying, *arguments)
        self.reset()

    def reset(self) -> None:
        """Count and measure anew."""
        self.length = DraftLength()
        self.passes = self.drafted = self.accepted = 0
        self.logits_are_finite = True

    def tokens_after(self, token: int, position: int, most: int, team: Team) -> list[int]:
        """The dense model's likeliest tokens after one that is to run at `position`: one, or more if drafts were good.

        Keys and values are those of the dense model from `position` on, one fewer than tokens are returned after it.
        At most `most` tokens are drafted.
        """
        started = time.perf_counter()
        drafted: list[int] = []
        for k in range(self.length.choose(most)):
            drafted.append(self._draft(drafted[-1] if drafted else token, position + k, team))
        middle = time.perf_counter()
        found = self.run([token, *drafted], position, team)
        accepted = next((k for k, guess in enumerate(drafted) if guess != found[k]), len(drafted))
        self.length.measured(len(drafted), accepted, middle - started, time.perf_counter() - middle)
        self.drafted += len(drafted)
        self.accepted += accepted
        return found[: accepted + 1]

    def run(self, tokens: list[int], position: int, team: Team) -> list[int]:
        """Run tokens densely from `position` on; the likeliest token after each. Logits are in `logits`."""
        self._batch.tokens[0] = len(tokens)
        self._batch.tokens[1 : 1 + len(tokens)] = tokens
        self._buffers.control[POSITION] = position
        team.run(self.lead)
        self.passes += 1
        self.logits_are_finite = bool(np.isfinite(self._batch.highest[:, : len(tokens)].max(axis=0)).all())
        self._buffers.control[FOUND] = self._batch.found[len(tokens) - 1]
        return [int(found) for found in self._batch.found[: len(tokens)]]

    def logits(self, vocabulary: int) -> Any:
        """Logits [vocabulary] after the first token of the last run."""
        return self._batch.logits[0, :vocabulary].copy()

    def _draft(self, token: int, position: int, team: Team) -> int:
        control = self._buffers.control
        self._batch.tokens[0] = 0
        control[GIVEN], control[POSITION], control[DENSE] = token, position, 0
        team.run(self.lead)
        return int(control[FOUND])
