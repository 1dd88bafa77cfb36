"""The tokenizer in the metadata of a GGUF file, read as llama.cpp reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from sparseact.errors import InputError
from sparseact.models.sources.gguf_header import Header, read_list
from sparseact.models.tokenizer import pipelines
from sparseact.models.tokenizer.tokenizer import Tokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # types of tokens; 5 is unused, 6 a byte
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read_gguf_tokenizer(path: Path, header: Header) -> Tokenizer:
    """Build the tokenizer of a GGUF file: byte-level BPE ("gpt2") or SentencePiece's ("llama").

    Args:
        path: the file.
        header: of the file.

    Raises:
        InputError: the file has no tokenizer, one of another kind, or one that is damaged.
    """
    about = {key.removeprefix("tokenizer.ggml."): value for key, value in header.metadata.items()}
    kind = about.get("model")
    if kind not in _KINDS:
        raise InputError(f"{path}: a tokenizer of kind {kind!r} is not known; known: {', '.join(_KINDS)}")
    about |= {
        key.removeprefix("tokenizer.ggml."): read_list(path, info)
        for key, info in header.lists.items()
        if key.startswith("tokenizer.ggml.")
    }
    try:
        return _build(_Vocabulary(kind, about), about.get("tokenizer.chat_template"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # of many types, for the package is written in Rust
        raise InputError(f"{path}: the tokenizer of this GGUF file is damaged: {error}") from error


@dataclass(frozen=True)
class _Vocabulary:
    """What a GGUF file says of its tokenizer.

    Attributes:
        kind: "gpt2" or "llama".
        about: the values, without tokenizer.ggml. before their keys.
    """

    kind: str
    about: Mapping[str, Any]

    @property
    def tokens(self) -> list[str]:
        """By id."""
        found: list[str] = self.about["tokens"]
        return found

    @property
    def types(self) -> list[int]:
        """Of each token."""
        found: list[int] = self.about.get("token_type") or [_NORMAL] * len(self.tokens)
        return found

    @property
    def ids(self) -> dict[str, int]:
        return {token: place for place, token in enumerate(self.tokens)}

    @property
    def named(self) -> dict[str, str]:
        """Special tokens by name; what is not in the vocabulary, as the padding of some files, is none."""
        places = {name: self.about.get(f"{key}_token_id", len(self.tokens)) for name, key in _NAMED.items()}
        return {name: self.tokens[place] for name, place in places.items() if place < len(self.tokens)}


def _build(vocabulary: _Vocabulary, chat_template: str | None) -> Tokenizer:
    about, named = vocabulary.about, vocabulary.named
    backend = _KINDS[vocabulary.kind](vocabulary)
    backend.add_tokens(_added(vocabulary))
    begins = vocabulary.kind == "llama" or about.get("pre") in pipelines.WHOLE_WORDS
    before = named.get("bos_token") if about.get("add_bos_token", begins) else None
    behind = named.get("eos_token") if about.get("add_eos_token", False) else None
    pipelines.add_at_ends(backend, before, behind)
    return Tokenizer(backend, named, chat_template)


def _byte_level(vocabulary: _Vocabulary) -> tokenizers.Tokenizer:
    name = vocabulary.about.get("pre", "default")
    if name not in pipelines.SPLITS:
        raise InputError(f"the pre-tokenizer {name!r} of this GGUF file is not known")
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.about["merges"])]
    prefix_space = vocabulary.about.get("add_space_prefix", False)
    return pipelines.byte_level(vocabulary.ids, merges, name, prefix_space=prefix_space)


def _sentencepiece(vocabulary: _Vocabulary) -> tokenizers.Tokenizer:
    scores, tokens, types = vocabulary.about["scores"], vocabulary.tokens, vocabulary.types
    scored = [(-score, token) for score, token, type_ in zip(scores, tokens, types, strict=True) if type_ == _NORMAL]
    pieces = [token for _, token in sorted(scored, key=lambda pair: pair[0])]
    unknown = vocabulary.named.get("unk_token")
    prefix_space = vocabulary.about.get("add_space_prefix", True)
    return pipelines.sentencepiece(vocabulary.ids, pieces, unknown, prefix_space=prefix_space)


_KINDS = {"gpt2": _byte_level, "llama": _sentencepiece}


def _added(vocabulary: _Vocabulary) -> list[AddedToken]:
    """The tokens that are found in a text before anything else is done to it."""
    # Phi 3's special tokens take away the white space behind them. Its files do not say so; llama.cpp knows it too.
    strips = vocabulary.about.get("general.architecture") == "phi3" and vocabulary.kind == "llama"
    named, added = set(vocabulary.named.values()), []
    for token, type_ in zip(vocabulary.tokens, vocabulary.types, strict=True):
        special = type_ in {_UNKNOWN, _CONTROL} or token in named
        if token and (special or type_ == _USER_DEFINED):
            strip = strips and special and token not in {"<unk>", "<s>", "<|endoftext|>"}
            # SentencePiece finds a user's tokens, such as runs of spaces, when spaces are "▁" already.
            later = vocabulary.kind == "llama" and not special
            added.append(AddedToken(token, rstrip=strip, normalized=later, special=special))
    return added
