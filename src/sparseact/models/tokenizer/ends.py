"""The tokens that end a text, as a model's files name them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_GGUF_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def end_tokens_of_gguf(metadata: Mapping[str, Any]) -> frozenset[int]:
    """Ids of the tokens that end a text, a turn or a message, by the metadata of a GGUF file."""
    named = (metadata.get(f"tokenizer.ggml.{key}") for key in _GGUF_KEYS)
    return frozenset(token for token in named if token is not None)


def end_tokens_of_folder(folder: Path, default: int | None = None) -> frozenset[int]:
    """Ids of the tokens that end a text: the generation config's where there is one, else the model config's.

    Args:
        folder: of a model.
        default: the tokenizer's, for a model config that says nothing.
    """
    generation = folder / "generation_config.json"
    if generation.is_file():
        ends = json.loads(generation.read_bytes()).get("eos_token_id")
    else:
        config = json.loads((folder / "config.json").read_bytes()) if (folder / "config.json").is_file() else {}
        ends = ({"eos_token_id": default} | config.get("text_config", {}) | config)["eos_token_id"]
    return frozenset([ends] if isinstance(ends, int) else ends or [])
