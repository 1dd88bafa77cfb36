"""What generating with torch and with the engine share: how a token is chosen, the text as it comes, the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparseact.errors import InputError

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for the first bytes of a character whose last bytes are in a later token."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the logits. Applied in the order of the attributes, as transformers does.

    Attributes:
        repetition_penalty: logits of tokens that the text has, prompt included, are divided by it if positive,
            else multiplied (Keskar et al. 2019, arXiv 1909.05858); 1 leaves them.
        temperature: 0 takes the most likely token, of equal ones the first; else logits are divided by it and a
            token is drawn.
        top_k: draw among so many of the most likely tokens; 0 among all.
        top_p: draw among the fewest most likely tokens that hold this share of the probability (Holtzman et al.
            2020, arXiv 1904.09751).
        min_p: draw among the tokens that are at least this much as likely as the most likely one (Nguyen et al.
            2024, arXiv 2407.01082).
        seed: of the drawing.
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            InputError: names the option.
        """
        penalty, temperature = self.repetition_penalty, self.temperature
        _check("repetition_penalty", penalty, "between 0.01 and 100", valid=0.01 <= penalty <= 100)
        _check(
            "temperature",
            temperature,
            "0 or between 1e-6 and 1e6",
            valid=temperature == 0 or 1e-6 <= temperature <= 1e6,
        )
        _check("top_k", self.top_k, "0 or more", valid=self.top_k >= 0)
        _check("top_p", self.top_p, "above 0 and at most 1", valid=0 < self.top_p <= 1)
        _check("min_p", self.min_p, "between 0 and 1", valid=0 <= self.min_p <= 1)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken as the model has it."""
        return not self.draws and self.repetition_penalty == 1

    @property
    def draws(self) -> bool:
        """Whether chance has a say."""
        return self.temperature > 0


def _check(option: str, value: float, wanted: str, *, valid: bool) -> None:
    if not valid:
        raise InputError(f"{option}: {value} is not {wanted}")


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


class TextStream:
    """Text from tokens, handed on as soon as it is certain: whole characters, and nothing of a stop string.

    Attributes:
        stopped: whether a stop string was found; what comes after it is left out.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], on_text: Callable[[str], object]) -> None:
        """tokenizer: of transformers; stop: strings that end the text; on_text: called with each piece.

        Raises:
            InputError: a stop string is empty.
        """
        if "" in stop:
            raise InputError("stop: an empty string ends every text before it begins")
        self.stopped = False
        self._tokenizer, self._stop, self._on_text = tokenizer, tuple(stop), on_text
        self._tokens: list[int] = []
        self._before = self._done = 0  # tokens whose text is out begin at _before, as context, and end at _done
        self._held = ""  # may turn out to be a stop string's beginning
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """All that was handed on."""
        return "".join(self._pieces)

    def add(self, token: int) -> bool:
        """Take the next token; True if the text ends here."""
        if not self.stopped:
            self._tokens.append(token)
            text = self._new_text()
            if text and not text.endswith(UNFINISHED):
                self._advance(text)
        return self.stopped

    def end(self) -> str:
        """Hand on what was held back, for no more tokens will come; returns all of the text."""
        if not self.stopped:
            self._advance(self._new_text())
            self._hand_on(self._held)
            self._held = ""
        return self.text

    def _new_text(self) -> str:
        """Text of the tokens from _done on.

        Decoded together with some before them, for a tokenizer may treat the beginning of a text in another way.
        """
        return self._decode(self._before, len(self._tokens))[len(self._decode(self._before, self._done)) :]

    def _decode(self, first: int, last: int) -> str:
        # Cleaning up spaces would change text that is out already.
        text: str = self._tokenizer.decode(
            self._tokens[first:last], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _advance(self, text: str) -> None:
        self._before, self._done = self._done, len(self._tokens)
        text = self._held + text
        found = [place for place in map(text.find, self._stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            self._hand_on(text[: min(found)])
            return
        size = max((_beginning(stop, text) for stop in self._stop), default=0)
        self._held = text[len(text) - size :]
        self._hand_on(text[: len(text) - size])

    def _hand_on(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._on_text(text)


def _beginning(stop: str, text: str) -> int:
    """Length of the longest beginning of `stop` that `text` ends with."""
    return next(size for size in range(min(len(stop) - 1, len(text)), -1, -1) if text.endswith(stop[:size]))
