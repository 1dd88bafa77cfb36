"""Text as it comes, from tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparseact.errors import InputError

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for the first bytes of a character whose last bytes are in a later token."""
CONTEXT = 8
"""Tokens before the text that it is decoded with."""


class TextStream:
    """Text from tokens, handed on as soon as it is certain: whole characters, and nothing of a stop string.

    Attributes:
        stopped: whether a stop string was found; what comes after it is left out.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], on_text: Callable[[str], object], before: Sequence[int] = ()
    ) -> None:
        """tokenizer: of the model; stop: strings that end the text; on_text: called with each piece.

        `before` are the tokens that the text follows: a tokenizer may treat the beginning of a text in another way.

        Raises:
            InputError: a stop string is empty.
        """
        if "" in stop:
            raise InputError("stop: an empty string ends every text before it begins")
        self.stopped = False
        self._tokenizer, self._stop, self._on_text = tokenizer, tuple(stop), on_text
        self._tokens = list(before[-CONTEXT:])
        self._before, self._done = 0, len(self._tokens)  # from _before to _done they are context, whose text is out
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
        """Text of the tokens from _done on, decoded together with some before them."""
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
