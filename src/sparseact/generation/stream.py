"""Text as it comes, from tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparseact.data.encode import check_text
from sparseact.errors import InputError

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for the first bytes of a character whose last bytes are in a later token."""
CONTEXT = 8
"""Tokens before the text that it is decoded with."""


class TextStream:
    """Text from tokens, handed on as soon as it is certain: whole characters, and nothing of a stop string.

    A special token is no part of the text, but of what a stop string is looked for in, where the string holds it.

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
        for string in stop:
            check_text("stop", string)
            if not string:
                raise InputError("stop: an empty string ends every text before it begins")
        self.stopped = False
        self._tokenizer, self._stop, self._on_text = tokenizer, tuple(stop), on_text
        self._special = special_tokens(tokenizer, stop)
        self._tokens = list(before[-CONTEXT:])
        self._before, self._done = 0, len(self._tokens)  # from _before to _done they are context, whose text is out
        self._held = ""  # may turn out to be a stop string's beginning
        self._hidden: list[range] = []  # parts of what is held that are special tokens, which a text does not show
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """All that was handed on."""
        return "".join(self._pieces)

    def add(self, token: int) -> bool:
        """Take the next token; True if the text ends here."""
        if token in self._special and not self.stopped and (text := self._new_text()):
            self._advance(text)  # what was no whole character yet will not become one
        if self.stopped:
            return True
        self._tokens.append(token)
        if token in self._special:
            name, size = self._special[token], len(self._held)
            self._hidden.append(range(size, size + len(name)))
            self._take(name)
        elif (text := self._new_text()) and not text.endswith(UNFINISHED):
            self._advance(text)
        return self.stopped

    def end(self) -> str:
        """Hand on what was held back, for no more tokens will come; returns all of the text."""
        if not self.stopped:
            self._advance(self._new_text())
            self._hand_on(len(self._held))
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
        self._take(text)

    def _take(self, text: str) -> None:
        """Look for stop strings with this text too, and hand on what cannot be one's beginning."""
        self._held += text
        found = [place for place in map(self._held.find, self._stop) if place >= 0]
        if found:
            self.stopped = True
            self._hand_on(min(found))
            self._held = ""
            return
        self._hand_on(len(self._held) - max((_beginning(stop, self._held) for stop in self._stop), default=0))

    def _hand_on(self, size: int) -> None:
        """Hand on so many characters of what is held, but for special tokens."""
        hidden = {place for part in self._hidden for place in part}
        text = "".join(character for place, character in enumerate(self._held[:size]) if place not in hidden)
        self._held = self._held[size:]
        self._hidden = [range(max(part.start - size, 0), part.stop - size) for part in self._hidden if part.stop > size]
        if text:
            self._pieces.append(text)
            self._on_text(text)


def special_tokens(tokenizer: Any, strings: Sequence[str]) -> dict[int, str]:
    """The special tokens in the strings, by id: what they are called, of which a text shows nothing."""
    ids = {token for string in strings for token in tokenizer(string, add_special_tokens=False)["input_ids"]}
    hidden = {token for token in ids if not tokenizer.decode([token], skip_special_tokens=True)}
    names = {token: str(tokenizer.decode([token])) for token in hidden}
    return {token: name for token, name in names.items() if name and any(name in string for string in strings)}


def _beginning(stop: str, text: str) -> int:
    """Length of the longest beginning of `stop` that `text` ends with."""
    return next(size for size in range(min(len(stop) - 1, len(text)), -1, -1) if text.endswith(stop[:size]))
