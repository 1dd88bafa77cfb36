"""Safetensors files, read a few rows at a time.

The package `safetensors` has bfloat16 only by way of torch, whose import alone takes more memory than a
small model; the format is a JSON header and plain numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.formats import Floats, float_of_bf16

_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
_LONGEST_HEADER = 100_000_000  # as the format's own reader has it


@dataclass(frozen=True)
class _Entry:
    path: Path
    type: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class SafetensorsFolder:
    """The tensors of one model in a folder, in one file or several.

    Attributes:
        entries: where each tensor is.
    """

    entries: Mapping[str, _Entry]

    @classmethod
    def open(cls, folder: Path) -> SafetensorsFolder:
        """Read the headers.

        Raises:
            InputError: no such files, or one is missing, cut short or damaged.
        """
        index = folder / "model.safetensors.index.json"
        if index.is_file() and not (folder / "model.safetensors").is_file():  # beside that, an index is stale
            try:
                names = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise InputError(f"{index}: this index is damaged: {error}") from error
        else:
            names = ["model.safetensors"]
        entries: dict[str, _Entry] = {}
        for name in names:
            path = folder / name
            if Path(name).name != name or not path.is_file():
                raise InputError(f"{folder}: no {name} here; the engine reads weights from safetensors files")
            entries |= _read_header(path)
        return cls(entries)

    @property
    def files(self) -> list[Path]:
        """The files that hold tensors."""
        return sorted({entry.path for entry in self.entries.values()})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def read(self, name: str, first: int, last: int) -> Floats:
        """Rows `first` to `last` of a tensor as float32."""
        entry = self.entries[name]
        if entry.type not in _TYPES:
            raise UnsupportedModelError(
                f"{entry.path}: {name} holds {entry.type}; the engine reads {', '.join(_TYPES)} from safetensors"
            )
        dtype = np.dtype(_TYPES[entry.type])
        row = math.prod(entry.shape[1:])
        offset = entry.offset + first * row * dtype.itemsize
        values = np.fromfile(entry.path, dtype, (last - first) * row, offset=offset)
        numbers = float_of_bf16(values) if entry.type == "BF16" else values.astype(np.float32, copy=False)
        return numbers.reshape(last - first, *entry.shape[1:])


def _read_header(path: Path) -> dict[str, _Entry]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length)) if length < min(size, _LONGEST_HEADER) else {}
        header.pop("__metadata__", None)
        entries = {name: _entry(path, 8 + length, tensor) for name, tensor in header.items()}
        ends = [8 + length + tensor["data_offsets"][1] for tensor in header.values()]
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: this safetensors file is damaged: {error}") from error
    if not entries or max(ends) > size:
        raise InputError(f"{path}: this safetensors file is cut short or damaged")
    return entries


def _entry(path: Path, data: int, tensor: dict[str, Any]) -> _Entry:
    shape = tuple(int(size) for size in tensor["shape"])
    begin, end = tensor["data_offsets"]
    width = np.dtype(_TYPES.get(tensor["dtype"], "u1")).itemsize
    if min((begin, *shape)) < 0 or (tensor["dtype"] in _TYPES and end - begin != width * math.prod(shape)):
        raise ValueError(f"a tensor {shape} of {tensor['dtype']} cannot lie at {begin} to {end}")
    return _Entry(path, tensor["dtype"], shape, data + begin)
