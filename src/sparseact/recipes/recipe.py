"""A recipe: a calibrated policy, on disk as recipe.json and recipe.safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

import sparseact
from sparseact.errors import InputError
from sparseact.models.formats import Array
from sparseact.recipes.gate import Gate, Signal, array_of
from sparseact.recipes.phases import Phases
from sparseact.recipes.selectors import selector_from_json, selector_to_json
from sparseact.recipes.site import Site
from sparseact.utils.files import write_atomically
from sparseact.utils.plain_json import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparseact.masked.density import Density

VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """What a policy became for one model::

        with recipe(model) as density:
            model.generate(...)
        density.achieved()

    Attributes:
        policy: its name.
        sparsity: requested share of the gated weight bytes.
        gates: one per site.
        phases: which tokens stay dense.
        model: fingerprint of the model that it was calibrated on.
        meta: calibration text (hash, tokens, sketch of its passages), bytes of a weight, seconds, versions, the
            policy's options.
    """

    policy: str
    sparsity: float
    gates: tuple[Gate, ...]
    phases: Phases
    model: str
    meta: dict[str, Any] = field(default_factory=dict)

    def __call__(self, model: PreTrainedModel) -> AbstractContextManager[Density]:
        """Run `model` sparsely inside the `with` block, which gives the counts of what was read.

        Raises:
            InputError: the recipe was calibrated on another model, or the model is compiled.
        """
        # What runs a model stands above the recipes, which are data and need no torch. So it is asked for by its public
        # name, which imports it now that there is a model.
        context: AbstractContextManager[Density] = sparseact.masked.run_recipe(self, model)
        return context

    def save(self, folder: str | Path) -> None:
        """Write recipe.safetensors and recipe.json into `folder`.

        Raises:
            InputError: the folder cannot be written, or a number of the recipe is none.
        """
        folder = Path(folder)
        tensors, keys = {}, {}
        for gate in self.gates:
            for name, held in gate.tensors().items():
                if id(held) not in keys:  # what several gates share, such as a basis, is written once
                    keys[id(held)] = f"{gate.site.name}.{name}"
                    tensors[keys[id(held)]] = np.ascontiguousarray(array_of(held))
        _refuse_no_numbers(tensors)
        with write_atomically(folder / "recipe.safetensors") as path:
            save_file(tensors, path)
            record = {
                "version": VERSION,
                "policy": self.policy,
                "sparsity": self.sparsity,
                "model": self.model,
                "phases": asdict(self.phases),
                "tensors_sha256": _sha256(path),
                "gates": [
                    {
                        "site": asdict(gate.site),
                        "frozen": gate.frozen,
                        "basis_shares": gate.basis_shares,
                        "tensors": {name: keys[id(held)] for name, held in gate.tensors().items()},
                        "signal": _write_signal(gate.signal),
                        **selector_to_json(gate.selector),
                    }
                    for gate in self.gates
                ],
                "meta": self.meta,
            }
            # Inside, so that a disk that is too full for the second file keeps both of an older recipe.
            write_json(folder / "recipe.json", record, indent=1)


def load_recipe(folder: str | Path) -> Recipe:
    """Read what `Recipe.save` wrote.

    Raises:
        InputError: no recipe, a changed or damaged file, or a newer version.
    """
    folder = Path(folder)
    try:
        record = read_json(folder / "recipe.json")
        version = record["version"]
    except Exception as error:  # a damaged file raises what its reader likes
        raise InputError(f"recipe: {folder}: no readable recipe.json here ({error})") from error
    if version != VERSION:
        raise InputError(f"recipe: {folder}: version {version}; this sparseact reads version {VERSION}; update it")
    try:
        unchanged = _sha256(folder / "recipe.safetensors") == record["tensors_sha256"]
        tensors = load_file(folder / "recipe.safetensors") if unchanged else {}
        _refuse_no_numbers(tensors)
        gates = tuple(_read_gate(gate, tensors) for gate in record["gates"]) if unchanged else ()
        recipe = Recipe(
            record["policy"],
            float(record["sparsity"]),
            gates,
            Phases(**record["phases"]),
            record["model"],
            record["meta"],
        )
    except Exception as error:  # as above
        raise InputError(f"recipe: {folder}: damaged ({error}); calibrate again") from error
    if not unchanged:
        raise InputError(f"recipe: {folder}: recipe.safetensors is not the file that recipe.json was written with")
    return recipe


def _refuse_no_numbers(tensors: Mapping[str, Array]) -> None:
    """A NaN among them would switch units on or off by chance; an infinity is a threshold like another."""
    for name, values in tensors.items():
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise InputError(f"recipe: {name} holds what is not a number (NaN)")


def _read_gate(record: dict[str, Any], tensors: dict[str, Array]) -> Gate:
    values = dict(record)
    site = Site(**values.pop("site"))
    signal = _read_signal(values.pop("signal"))
    frozen = values.pop("frozen")
    shares = values.pop("basis_shares")
    held = {name: tensors[key] for name, key in values.pop("tensors").items()}
    return Gate(site, selector_from_json(values), signal, frozen, basis_shares=shares).with_tensors(held)


def _read_signal(record: dict[str, Any]) -> Signal:
    times = record.get("times")
    return Signal(**record | {"part": tuple(record["part"]), "times": _read_signal(times) if times else None})


def _write_signal(signal: Signal) -> dict[str, Any]:
    record = asdict(signal) | {"times": _write_signal(signal.times) if signal.times else None}
    for name in ("bits", "factor", "own_sparsity"):
        if record[name] == getattr(Signal, name):  # files were written before there were any, and stay what they are
            del record[name]
    return record


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
