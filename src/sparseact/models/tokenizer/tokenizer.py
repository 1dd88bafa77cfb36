"""A tokenizer: the pipeline of the `tokenizers` package, the special tokens by name, the chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sparseact.errors import InputError

if TYPE_CHECKING:
    import tokenizers

Messages = Sequence[Mapping[str, Any]]
"""Of a conversation: each with a role and content."""


class Encoded(dict[str, list[int]]):
    """What a call of a tokenizer gives: `input_ids`, as a key and as an attribute."""

    @property
    def input_ids(self) -> list[int]:
        """The token ids."""
        return self["input_ids"]


class Tokenizer:
    """The part of transformers' tokenizers that generating text needs, under the same names.

    Code that calls no more than this runs with both: `encode`, `decode`, `apply_chat_template` with
    `tokenize=False`, `chat_template`, the ids of special tokens, `get_vocab`, `len`.

    Attributes:
        backend: what turns text into ids and back.
        special_tokens: the named ones: bos_token, eos_token, unk_token, ...
        chat_template: a program in Jinja; several by name; None for a base model.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str],
        chat_template: str | dict[str, str] | None = None,
        extra_special_tokens: Sequence[str] = (),
    ) -> None:
        """extra_special_tokens: special tokens that have no name."""
        self.backend = backend
        self.special_tokens = dict(special_tokens)
        self.chat_template = chat_template
        self._extra = tuple(extra_special_tokens)

    def encode(self, text: str, *, add_special_tokens: bool = True, verbose: bool = False) -> list[int]:
        """Text as token ids; special tokens in the text are found.

        Args:
            text: of any length; a longer one than the model takes is not warned of, whatever `verbose` says.
            add_special_tokens: put before and behind what the tokenizer asks for, such as the BOS token.
            verbose: of transformers' interface.
        """
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Encoded:
        """As `encode`, for `tokenizer(text).input_ids` and `tokenizer(text)["input_ids"]`."""
        return Encoded(input_ids=self.encode(text, add_special_tokens=add_special_tokens))

    def decode(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: Literal[False] = False,
    ) -> str:
        """The text of token ids, with the spaces that they have; bytes that are no UTF-8 become U+FFFD."""
        return self.backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self, messages: Messages, *, tokenize: Literal[False], add_generation_prompt: bool = False
    ) -> str:
        """A conversation as the text that the model was trained on; encode it with `add_special_tokens=False`.

        Raises:
            InputError: there is no chat template, or several and none is the default.
            jinja2.TemplateError: the template refuses the conversation, or is no template.
        """
        from sparseact.models.tokenizer.chat_template import render

        template = self.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if template is None:
            raise InputError("the tokenizer has no chat template, or several of which none is the default")
        return render(template, messages, self.special_tokens, add_generation_prompt=add_generation_prompt)

    @property
    def bos_token_id(self) -> int | None:
        """What a text begins with."""
        return self._id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """What a text ends with."""
        return self._id("eos_token")

    @property
    def all_special_tokens(self) -> list[str]:
        """Each once, those with a name first."""
        return list(dict.fromkeys([*self.special_tokens.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`."""
        found = map(self.backend.token_to_id, self.all_special_tokens)
        return [token for token in found if token is not None]

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        return self.backend.get_vocab()

    def __len__(self) -> int:
        """Number of tokens."""
        return self.backend.get_vocab_size()

    def _id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.backend.token_to_id(token)
