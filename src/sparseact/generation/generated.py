"""What was written, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Generated:
    """What was written, and what it took.

    Attributes:
        text: without the prompt, and without the stop string that ended it.
        tokens: how many new tokens, with the one that ended the text.
        prompt_tokens: how many the prompt has.
        achieved: share of the gated weight bytes that decoding did not read; 0 without a recipe.
        bytes_per_token: weight bytes read for a decoded token.
        prefill_seconds: from the encoded prompt to the first token.
        decode_seconds: from the first token to the last one.
        density: share of the gated weight bytes of a layer that decoding read, by the layer's number or "head";
            empty without a recipe.
        head_bytes: the part of `bytes_per_token` that is the head of the model, where it is screened.
        acceptance: of a lossless answer, the share of the drafted tokens that the dense model accepted; None if
            none were drafted. `achieved` and `density` are then those of the drafts.
    """

    text: str
    tokens: int
    prompt_tokens: int
    achieved: float
    bytes_per_token: float
    prefill_seconds: float
    decode_seconds: float
    density: dict[str, float] = field(default_factory=dict)
    head_bytes: float | None = None
    acceptance: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Rate of decoding. The first token is the prompt's; 0 if it is the only one."""
        return (self.tokens - 1) / self.decode_seconds if self.tokens > 1 else 0.0
