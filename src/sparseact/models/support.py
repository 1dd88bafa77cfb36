"""What of a model would run, from its config or the header of its GGUF file: its weights are not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sparseact.errors import InputError
from sparseact.models.architecture import Architecture
from sparseact.models.families import family_where, read_config, text_config
from sparseact.models.fetching import cached_folder, gguf_path
from sparseact.models.hub import fetch_config
from sparseact.models.resolve import resolve
from sparseact.models.sources.gguf import GGUFTensors
from sparseact.models.sources.gguf_config import gguf_config
from sparseact.models.weights import config_of_folder, open_weights

_UNKNOWN = "not known; where transformers has it, its units are looked for by the names that the known families have"


@dataclass(frozen=True)
class Support:
    """What runs a model; each of the three is empty where it does, else why not.

    Attributes:
        model: as it was given.
        family: transformers' name of it.
        torch: a model of transformers, under recipes.
        engine: the engine, from this folder or file.
        gguf: GGUF files of the family, by either.
        context: positions that the engine has; 0 where it does not run.
        why_context: why those are fewer than the model's own, if they are.
        gated: the neurons are act(gate) * up; None where that is not known.
        norms_neurons: which leaves no neuron that need not be computed.
        has_neurons: some block has an MLP.
        own_sparsity: share of each layer's neurons that the model itself leaves off; empty where it leaves none off.
    """

    model: str
    family: str
    torch: str = ""
    engine: str = ""
    gguf: str = ""
    context: int = 0
    why_context: str = ""
    gated: bool | None = None
    norms_neurons: bool = False
    has_neurons: bool = True
    own_sparsity: tuple[float, ...] = ()

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        said = asdict(self)
        why_not = {road: said.pop(road) for road in ("torch", "engine", "gguf")}
        return said | {"runs": {road: not why for road, why in why_not.items()}, "why_not": why_not}


def support_of(name: str) -> Support:
    """What would run a model.

    Args:
        name: as for `load`; of a model of the hub only config.json is fetched.

    Raises:
        InputError: an unknown name, or neither a config nor a GGUF file, or a damaged one.
    """
    path = _path(name)
    config = text_config(config_of_folder(path)) if path.is_dir() else _config_of_file(path)
    if isinstance(config, str):
        return Support(name, "unknown", torch=config, engine=config, gguf=config)
    model_type = str(config.get("model_type"))
    family = family_where(lambda family: family.model_type == model_type)
    architecture = _architecture(path, config)
    reads_gguf = family_where(lambda family: family.model_type == model_type and family.gguf is not None)
    found = Support(
        name,
        model_type,
        torch="" if family else f"{model_type!r} is {_UNKNOWN}",
        gguf="" if reads_gguf or path.is_file() else f"no GGUF files of {model_type!r} are read",
        gated=family.gated if family else None,
        has_neurons=any(layout.mlp_in for layout in family.layouts) if family else True,
        own_sparsity=family.own_sparsity(config) if family and family.own_sparsity else (),
    )
    if isinstance(architecture, str):
        return replace(found, engine=architecture)
    return replace(
        found,
        context=architecture.context,
        why_context=architecture.why_context,
        gated=architecture.gated,
        norms_neurons=architecture.inner_norms,
    )


def _path(name: str) -> Path:
    """The folder or file; of a model of the hub a folder with its config alone."""
    files = resolve(name)
    if files.kind == "hub":
        return fetch_config(files.name)
    if files.kind == "builtin":
        if cached_folder(files.name) is None:
            raise InputError(f"model: the weights of {files.name} are not here yet; get them with: sparseact fetch")
        return gguf_path(files.name)
    return files.path


def _config_of_file(path: Path) -> Mapping[str, Any] | str:
    tensors = GGUFTensors.open(path)
    try:
        return gguf_config(tensors)
    except InputError as error:
        return _reason(error, path)


def _architecture(path: Path, config: Mapping[str, Any]) -> Architecture | str:
    """By the headers of the weights too, where they are there; or why the engine does not run it."""
    try:
        if path.is_file() or any(path.glob("*.safetensors")):
            return open_weights(path).architecture
        return read_config(config, str(path / "config.json"))
    except InputError as error:
        return _reason(error, path)


def _reason(error: InputError, path: Path) -> str:
    return str(error).removeprefix("model: ").removeprefix(f"{path / 'config.json'}: ").removeprefix(f"{path}: ")
