"""The tokenizer in a folder of transformers: tokenizer.json, or vocab.json and merges.txt of a byte-level one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from sparseact.errors import InputError
from sparseact.models.tokenizer import pipelines
from sparseact.models.tokenizer.tokenizer import Tokenizer

_BYTE_LEVEL = {"GPT2Tokenizer": "gpt-2", "CodeGenTokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}
"""Names in `pipelines.SPLITS` of the classes whose vocabulary is vocab.json and merges.txt."""


def read_folder_tokenizer(folder: Path) -> Tokenizer | None:
    """Read the tokenizer in a folder.

    tokenizer.json holds all of a tokenizer but the names of its special tokens and the chat template. It is taken as it
    is: a class named in tokenizer_config.json may know less (GPT2Tokenizer, which SmolLM2's folder names, would drop
    the step that splits digits).

    Returns:
        None if it is of a kind that transformers must read.

    Raises:
        InputError: a file is damaged.
    """
    try:
        config = _json(folder / "tokenizer_config.json")
        backend = _backend(folder, config)
        if backend is None:
            return None
        if "added_tokens_decoder" not in config:
            config |= _json(folder / "special_tokens_map.json")
        if backend.padding:
            config.setdefault("pad_token", backend.padding["pad_token"])
        special, extra = _special_tokens(config)
        _add_tokens(backend, folder, config, list(special.values()), extra)
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = bool(config.get("split_special_tokens", False))
        names = {name: str(token) for name, token in special.items()}
        if not (folder / "tokenizer.json").is_file():
            before, behind = (
                names.get(f"{end}_token") if config.get(f"add_{end}_token") else None for end in ("bos", "eos")
            )
            pipelines.add_at_ends(backend, before, behind)
        return Tokenizer(backend, names, _chat_template(folder, config), [str(token) for token in extra])
    except InputError:
        raise
    except Exception as error:  # of many types, for the package is written in Rust
        raise InputError(f"model: {folder}: cannot read its tokenizer: {' '.join(str(error).split())}") from error


def _backend(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer | None:
    if (folder / "tokenizer.json").is_file():
        return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    kind = _BYTE_LEVEL.get(str(config.get("tokenizer_class", "")).removesuffix("Fast"))
    if kind is None or not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        return None
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [
        (left, right) for left, _, right in (line.partition(" ") for line in lines) if right and left != "#version:"
    ]
    prefix_space = bool(config.get("add_prefix_space", False))
    return pipelines.byte_level(_json(folder / "vocab.json"), merges, kind, prefix_space=prefix_space)


def _json(path: Path) -> dict[str, Any]:
    """The object in a file, or an empty one if there is no such file."""
    found = json.loads(path.read_bytes()) if path.is_file() else {}
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object")
    return found


def _special_tokens(config: dict[str, Any]) -> tuple[dict[str, AddedToken], list[AddedToken]]:
    """The special tokens with a name, those of the model's own making among them, and the others."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    more = extra if isinstance(extra, dict) else {}
    own = {key: token for key, token in config.items() if key.endswith("_token") and isinstance(token, str | dict)}
    named = {name: _token(token) for name, token in (own | more).items()}
    return named, [] if more else [_token(token) for token in extra]


def _token(token: str | dict[str, Any]) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=True)
    flags = {key: value for key, value in token.items() if key not in {"__type", "special"}}
    return AddedToken(**flags, special=True)


def _add_tokens(
    backend: tokenizers.Tokenizer,
    folder: Path,
    config: dict[str, Any],
    named: list[AddedToken],
    extra: list[AddedToken],
) -> None:
    """Add the tokens of the folder's other files that the backend does not have, or has otherwise."""
    names = {token.content for token in named}
    tokens = [token for _, token in sorted(backend.get_added_tokens_decoder().items())]
    there = {repr(token) for token in tokens}
    for _, token in sorted(config.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0])):
        tokens.append(AddedToken(**_plain(token)))
    if "added_tokens_decoder" not in config:
        older = sorted(_json(folder / "added_tokens.json").items(), key=lambda item: item[1])
        tokens += [AddedToken(token, normalized=token not in names) for token, _ in older]
    for token in tokens:
        token.special |= token.content in names
    known = {token.content for token in tokens}
    tokens += [token for token in [*named, *extra] if token.content not in known]
    backend.add_tokens([token for token in tokens if repr(token) not in there])


def _plain(token: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in token.items() if key != "__type"}


def _chat_template(folder: Path, config: dict[str, Any]) -> str | dict[str, str] | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    found = config.get("chat_template")
    return {entry["name"]: entry["template"] for entry in found} if isinstance(found, list) else found
