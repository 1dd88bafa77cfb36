"""The weights of a model by canonical names, read a tensor at a time from wherever they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sparseact.errors import InputError
from sparseact.models.architecture import Architecture
from sparseact.models.families import read_config, text_config, transformers_naming
from sparseact.models.formats import Array, Floats, Quantised, dequantise
from sparseact.models.sources.gguf import GGUFTensors
from sparseact.models.sources.gguf_config import gguf_config, gguf_naming
from sparseact.models.sources.memory import LoadedModel, settled
from sparseact.models.sources.safetensors import SafetensorsFolder
from sparseact.models.tensor_names import Place, find_places, is_beside_text


class Source(Protocol):
    """Tensors by the names that a model, a folder or a file gives them."""

    @property
    def files(self) -> Sequence[Path]:
        """Where they stand; none for a model in memory."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor, rows first."""

    def read(self, name: str, first: int, last: int) -> Floats | Quantised:
        """Rows `first` to `last` of a tensor, in memory of their own."""


@dataclass(frozen=True)
class Weights:
    """The weights of one model; nothing is held in memory but where they are.

    Attributes:
        architecture: what they belong to.
        places: where each tensor is, by canonical name (see `Architecture.shapes`).
        source: what reads them.
        config: what the architecture was read from, in transformers' words.
        orders: of the neurons of some layers, by the layer's number as text. Rows of gate and up and columns of down
            are read in it; what the MLP puts out is the same.
    """

    architecture: Architecture
    places: Mapping[str, Place]
    source: Source
    config: Mapping[str, Any]
    orders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names of the tensors that there are; a tied head is not among them."""
        return tuple(self.places)

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def shape(self, name: str) -> tuple[int, ...]:
        """[outputs, inputs] of a linear, [size] of a norm or a bias."""
        return self.architecture.shapes[name]

    def read(self, name: str, first: int = 0, last: int | None = None) -> Floats | Quantised:
        """Rows `first` to `last` of a tensor, as float32 or in the file's blocks where `formats` has them.

        Raises:
            KeyError: the model has no such tensor.
            IndexError: it has no such rows.
        """
        rows = self.shape(name)[0]
        last = rows if last is None else last
        if not 0 <= first <= last <= rows:
            raise IndexError(f"rows {first} to {last} of {name}, which has {rows}")
        layer, _, part = name.partition(".")
        order = self.orders.get(layer)
        if order is not None and part == "down":  # out of blocks of inputs that share a scale
            return floats(self._read(name, first, last))[:, order]
        if order is not None and part.removesuffix(".bias") in {"gate", "up"}:
            return _rows(self._read(name, 0, rows), np.array(order[first:last]))
        return self._read(name, first, last)

    def _read(self, name: str, first: int, last: int) -> Floats | Quantised:
        """In the source's order of neurons."""
        place, rows = self.places[name], self.shape(name)[0]
        if place.transposed:  # what is wanted are columns of the source's rows
            turned = floats(self.source.read(place.name, 0, self.source.shapes[place.name][0]))
            return np.ascontiguousarray(turned[:, place.first + first : place.first + last].T)
        if (stored := place.rows(rows)) is not None:
            whole = self.source.read(place.name, place.first, place.first + int(stored.max()) + 1)
            return _rows(whole, stored[first:last])
        value = self.source.read(place.name, place.first + first, place.first + last)
        return floats(value) + np.float32(place.added) if place.added else value

    def floats(self, name: str, first: int = 0, last: int | None = None) -> Floats:
        """As `read`, always float32."""
        return floats(self.read(name, first, last))


def open_weights(model: Any) -> Weights:
    """The weights of a model of transformers, of a folder in its format, or of a GGUF file.

    Args:
        model: a loaded model, or the path of a folder with config.json and *.safetensors, or of a .gguf file.

    Raises:
        InputError: nothing there, or it is damaged, or lacks a tensor.
        UnsupportedModelError: a family, a number format or a tensor that the engine does not know.
    """
    if hasattr(model, "named_parameters"):
        return _weights_of_model(model)
    path = Path(model)
    if not path.exists():
        raise InputError(f"model: no such file or folder: {str(model)!r}")
    return _weights_of_folder(path) if path.is_dir() else _weights_of_gguf(path)


def _weights_of_gguf(path: Path) -> Weights:
    tensors = GGUFTensors.open(path)
    config = gguf_config(tensors)
    architecture = read_config(config, str(path))
    naming = gguf_naming(tensors)
    return Weights(architecture, find_places(architecture, naming, tensors.shapes, str(path)), tensors, config)


def _weights_of_model(model: Any) -> Weights:
    config, source = model.config.to_dict(), LoadedModel.of(model)
    architecture = settled(read_config(config, source.where), model)
    naming = transformers_naming(architecture.family)
    return Weights(architecture, find_places(architecture, naming, source.shapes, source.where), source, config)


def config_of_folder(folder: Path) -> dict[str, Any]:
    """What config.json of a folder says.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise InputError(f"{folder}: no config.json here, so it holds no transformers model") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{folder / 'config.json'}: holds no config of a model")
    return config


def _weights_of_folder(folder: Path) -> Weights:
    whole = config_of_folder(folder)
    config = text_config(whole)
    architecture = read_config(config, str(folder / "config.json"))
    source = SafetensorsFolder.open(folder)
    shapes = source.shapes
    if config is not whole:
        shapes = {name: shape for name, shape in shapes.items() if not is_beside_text(name)}
    naming = transformers_naming(architecture.family)
    places = find_places(architecture, naming, shapes, str(folder))
    head = naming.head(shapes) + ".weight"
    if architecture.tied and head in shapes and not _same(source, head, places["embed"].name):
        # The config is wrong about it: the file has a head of its own, which transformers takes too.
        architecture = replace(architecture, tied=False)
        places = find_places(architecture, naming, shapes, str(folder))
    return Weights(architecture, places, source, config)


def _same(source: Source, one: str, other: str) -> bool:
    """Whether two tensors hold the same numbers."""
    shape, rows = source.shapes[one], source.shapes[one][0]
    parts = [(at, min(at + 1024, rows)) for at in range(0, rows, 1024)]
    return source.shapes[other] == shape and all(
        np.array_equal(floats(source.read(one, *part)), floats(source.read(other, *part))) for part in parts
    )


def floats(value: Floats | Quantised) -> Floats:
    """The numbers themselves, whether they are in blocks or not."""
    return dequantise(value) if isinstance(value, Quantised) else value


def _rows(value: Floats | Quantised, index: Array) -> Floats | Quantised:
    if not isinstance(value, Quantised):
        return value[index]
    parts = {name: getattr(value, name) for name in ("codes", "scales", "mins")}
    return replace(value, **{name: part[index] for name, part in parts.items() if part is not None})
