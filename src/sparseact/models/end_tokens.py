"""The tokens that end a text: every one that a model's files name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparseact.errors import InputError
from sparseact.models.sources.gguf_header import read_header

_GGUF_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id", "eos_token_ids")


def end_tokens(path: Path, default: int | None = None) -> frozenset[int]:
    """The tokens that end a text of the model in a folder or in a .gguf file.

    In a folder, those of generation_config.json, and those of config.json where that says nothing of them; in a
    GGUF file, the ends of text, of turn and of message.

    Args:
        path: the folder or the file.
        default: the tokenizer's, for a folder whose configs say nothing.

    Raises:
        InputError: a file is damaged.
    """
    if path.is_file():
        return gguf_end_tokens(read_header(path).metadata)
    config = _json(path / "config.json")
    for said in (_json(path / "generation_config.json"), config, config.get("text_config") or {}):
        if "eos_token_id" in said:
            return _tokens(said["eos_token_id"])
    return _tokens(default)


def gguf_end_tokens(metadata: Mapping[str, Any]) -> frozenset[int]:
    """The tokens that end a text by a GGUF file's metadata."""
    return _tokens([metadata.get(f"tokenizer.ggml.{key}") for key in _GGUF_KEYS])


def end_tokens_in_memory(model: Any) -> frozenset[int]:
    """The tokens that end a text by the generation config of a model of transformers."""
    return _tokens(getattr(getattr(model, "generation_config", None), "eos_token_id", None))


def in_config(ends: frozenset[int]) -> int | list[int] | None:
    """How a config says them."""
    return sorted(ends) if len(ends) > 1 else next(iter(ends), None)


def _tokens(said: Any) -> frozenset[int]:
    """The tokens in a number, a list of them, a list of lists, or nothing."""
    if isinstance(said, list):
        return frozenset[int]().union(*(_tokens(one) for one in said))
    return frozenset({said} if isinstance(said, int) and said >= 0 else ())


def _json(path: Path) -> dict[str, Any]:
    """What a file says; nothing if there is none."""
    try:
        said = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"model: {path}: cannot be read: {error}") from error
    return said if isinstance(said, dict) else {}
