"""What a text is generated with: the engine, or a model of transformers under a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from sparseact.models.formats import Floats


@runtime_checkable
class Backend(Protocol):
    """A model that runs one text at a time. `sparseact.Engine` is one, and so is `sparseact.generation.masked.Masked`.

    What was read is counted of the tokens that were run one by one, since the last `reset`.
    """

    @property
    def context(self) -> int | None:
        """Tokens that a text can have; None if nothing limits them."""

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text by the model's files or its generation config; none where they say nothing."""

    @property
    def position(self) -> int:
        """Tokens of the text so far."""

    @property
    def screen(self) -> bool:
        """Whether `greedy` reads a part of the head only."""

    @property
    def lossless(self) -> bool:
        """Whether a recipe drafts what the dense model says, which takes the most likely tokens."""

    def reset(self) -> None:
        """Begin a new text, and count anew."""

    def prefill(self, ids: Sequence[int]) -> Floats:
        """Add tokens to the text, all at once; logits [vocabulary] of the token that follows."""

    def step(self, token: int) -> Floats:
        """Add one token to the text; logits [vocabulary] of the token that follows."""

    def greedy(self, n: int) -> list[int]:
        """Add the `n` likeliest tokens to the text, one after the other; the last one is run when more is asked for."""

    def achieved(self) -> float:
        """Share of the gated weight bytes that was not read; 0 without a recipe."""

    def density_by_layer(self) -> dict[str, float]:
        """Share of the gated weight bytes that was read, by the layer's number or "head"; empty without a recipe."""

    def bytes_per_token(self) -> float:
        """Weight bytes that a token read."""

    def head_bytes_per_token(self) -> float:
        """The part of them that is the head of the model, where it is screened."""

    def acceptance(self) -> float | None:
        """Share of the drafted tokens that the dense model accepted; None if none were drafted."""
