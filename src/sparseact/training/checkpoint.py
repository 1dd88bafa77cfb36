"""Checkpoints: tensors in a safetensors file, all else in checkpoint.json, which names it and is replaced last."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from sparseact.errors import InputError
from sparseact.utils.files import write_atomically
from sparseact.utils.plain_json import read_json, write_json

NAME = "checkpoint.json"


def save_checkpoint(
    folder: Path, record: Mapping[str, Any], parameters: Mapping[str, nn.Parameter], optimiser: Optimizer
) -> None:
    """Write a checkpoint; the one before is whole until this one is.

    Args:
        folder: of its files.
        record: for JSON; must have `step`.
        parameters: that are trained, by name.
        optimiser: its state goes with them.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[name] = parameter.detach().cpu().contiguous()
        tensors |= {f"{name}|{key}": value.cpu().contiguous() for key, value in optimiser.state[parameter].items()}
    file = f"step-{record['step']:07}.safetensors"
    with write_atomically(folder / file) as path:
        save_file(tensors, path)
    write_json(folder / NAME, {**record, "tensors": file})
    for old in folder.glob("step-*.safetensors"):
        if old.name != file:
            old.unlink()


def read_checkpoint(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a checkpoint, None if there is none.

    Raises:
        InputError: it is damaged, or of a run with another identity.
    """
    if not (folder / NAME).exists():
        return None
    try:
        record: dict[str, Any] = read_json(folder / NAME)
        before = record["identity"]
    except Exception as error:  # a damaged file raises what its reader likes
        raise InputError(f"out: {folder / NAME} can't be read ({error}); choose another folder") from error
    now = json.loads(json.dumps(identity))
    if found := "; ".join(_differences(before, now)):
        raise InputError(f"out: {folder.parent} holds a training with other options ({found}); choose another folder")
    return record


def load_checkpoint(
    folder: Path, record: Mapping[str, Any], parameters: Mapping[str, nn.Parameter], optimiser: Optimizer
) -> None:
    """Put a checkpoint's tensors into parameters and optimiser.

    Raises:
        InputError: its tensors are damaged.
    """
    try:
        tensors = load_file(folder / record["tensors"])
    except Exception as error:  # as above
        raise InputError(f"out: {folder / record['tensors']} can't be read ({error}); choose another folder") from error
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors.pop(name))
            keys = [key for key in tensors if key.startswith(f"{name}|")]
            optimiser.state[parameter] = {
                key.removeprefix(f"{name}|"): value if value.ndim == 0 else value.to(parameter.device)
                for key in keys
                for value in [tensors.pop(key)]
            }


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs, option by option."""
    if before["model"] != now["model"]:
        yield "another model, or other weights"
    old, new = before["options"], now["options"]
    yield from (f"{key} {old.get(key)} there, {new[key]} here" for key in new if old.get(key) != new[key])
    if before["texts"] != now["texts"]:
        yield "other texts"
