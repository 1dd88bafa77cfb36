"""What the name of a model means: one rule for everything that takes one."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Literal

from sparseact.errors import InputError, unknown_name
from sparseact.models.builtin import BUILTIN
from sparseact.models.fetching import gguf_path
from sparseact.models.hub import snapshot


@dataclass(frozen=True)
class ModelFiles:
    """Where the files of a model are.

    Attributes:
        kind: what its name was.
        name: as it was given.
        path: the folder or the .gguf file; of a built-in model or one of the hub only its name.
    """

    kind: Literal["builtin", "folder", "gguf", "hub"]
    name: str
    path: Path

    @cached_property
    def weights(self) -> Path:
        """The .gguf file, or the folder with safetensors files; fetched if need be.

        Raises:
            InputError: they cannot be fetched.
        """
        if self.kind == "builtin":
            return gguf_path(self.name)
        return snapshot(self.name) if self.kind == "hub" else self.path

    @cached_property
    def unpacked(self) -> Path:
        """As `weights`; of a built-in model the folder that they were unpacked to, if they were: it is read sooner."""
        folder = self.weights.parent
        return folder if self.kind == "builtin" and (folder / "config.json").is_file() else self.weights


def resolve(name: str | Path) -> ModelFiles:
    """Find out what a model's name means, in this order: a built-in model, a folder, a .gguf file, an id on the hub.

    A built-in name means the built-in model also where a folder is called so; `./smollm2`, or a `Path`, is the folder.

    Raises:
        InputError: it can be none of them.
    """
    if isinstance(name, str) and name in BUILTIN:
        return ModelFiles("builtin", name, Path(name))
    if not str(name).strip():
        raise unknown_name("model: unknown model", str(name), BUILTIN)
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return ModelFiles("folder", str(name), path)
        if path.is_file():
            return ModelFiles("gguf", str(name), path)
    except (OSError, RuntimeError, ValueError) as error:  # too long, with a NUL, the home of nobody
        raise InputError(f"model: {str(name)[:80]!r} is not a path: {getattr(error, 'strerror', error)}") from error
    if isinstance(name, Path) or path.suffix == ".gguf" or name[0] in "./~\\" or name.count("/") > 1:
        raise InputError(f"model: no such file or folder: {str(name)!r}")
    if "/" not in name and get_close_matches(name.lower(), BUILTIN):  # a slip; do not ask the hub about it
        raise unknown_name("model: unknown model", name, [*BUILTIN, "a folder", "a .gguf file", "a hub id"])
    return ModelFiles("hub", name, path)
