"""Scores of one prompt's generated tokens, in memory and on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from sparseact.errors import InputError
from sparseact.utils.files import write_atomically
from sparseact.utils.plain_json import read_json, write_json

VERSION = 1


@dataclass(frozen=True)
class Scores:
    """Scores of one prompt's generated tokens.

    Attributes:
        tokens: [T] ids of the label: the model's own dense greedy tokens, or those given.
        prompt_tokens: [P] ids of the prompt.
        values: `mlp.{layer}` [T, neurons] and `heads.{layer}` [T, heads].
        meta: metric and options that made them.
    """

    tokens: Tensor
    prompt_tokens: Tensor
    values: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """Scores of one site, by name: `scores["mlp.0"]`."""
        return self.values[name]

    def save(self, folder: str | Path) -> None:
        """Write scores.safetensors (tensors) and scores.json (metric, options) into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {**self.values, "tokens": self.tokens, "prompt_tokens": self.prompt_tokens}
        with write_atomically(folder / "scores.safetensors") as path:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
        write_json(folder / "scores.json", {"version": VERSION, **self.meta}, indent=2)

    @classmethod
    def load(cls, folder: str | Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            InputError: the folder holds no scores, or those of a newer version.
        """
        folder = Path(folder)
        try:
            meta = read_json(folder / "scores.json")
            values = load_file(folder / "scores.safetensors")
            version, tokens, prompt = meta.pop("version"), values.pop("tokens"), values.pop("prompt_tokens")
        except Exception as error:  # a damaged file raises what its reader likes
            raise InputError(f"{folder}: no readable scores here ({error!r})") from error
        if version != VERSION:
            raise InputError(f"{folder}: scores of another version than {VERSION}; update sparseact")
        return cls(tokens, prompt, values, meta)
