"""A recipe: a calibrated policy, on disk as recipe.json and recipe.safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparseact.errors import InputError
from sparseact.masked.apply import run_sparse
from sparseact.masked.density import Density
from sparseact.recipes.gate import Gate, Signal
from sparseact.recipes.phases import Phases
from sparseact.recipes.selectors import selector_from_json, selector_to_json
from sparseact.sites import Site, refuse_compiled
from sparseact.utils.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSION = 1
TUPLES = {"low_rank": 2, "predictor": 3}


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
        refuse_compiled(model)
        if fingerprint(model, self.gates) != self.model:
            raise InputError(
                f"the recipe ({self.policy}, sparsity {self.sparsity}) was calibrated on another model than this "
                f"{type(model).__name__}, or on other weights; calibrate again"
            )
        # Sites count the bytes of the dtype that they were calibrated in.
        factor = model.dtype.itemsize / self.meta.get("element_size", model.dtype.itemsize)
        gates = [
            replace(gate, site=replace(gate.site, unit_bytes=gate.site.unit_bytes * factor)) for gate in self.gates
        ]
        return run_sparse(model, gates, self.phases)

    def save(self, folder: str | Path) -> None:
        """Write recipe.safetensors and recipe.json into `folder`."""
        folder = Path(folder)
        held = [(f"{gate.site.name}.{name}", tensor) for gate in self.gates for name, tensor in gate.tensors().items()]
        keys: dict[int, str] = {}
        for key, tensor in held:  # what several gates share, such as a basis, is written once
            keys.setdefault(id(tensor), key)
        tensors = {key: tensor.cpu().contiguous() for key, tensor in held if keys[id(tensor)] == key}
        with write_atomically(folder / "recipe.safetensors") as path:
            save_file(tensors, path)
        record = {
            "version": VERSION,
            "policy": self.policy,
            "sparsity": self.sparsity,
            "model": self.model,
            "phases": asdict(self.phases),
            "tensors_sha256": _sha256(folder / "recipe.safetensors"),
            "gates": [
                {
                    "site": asdict(gate.site),
                    "frozen": gate.frozen,
                    "basis_shares": gate.basis_shares,
                    "tensors": {name: keys[id(tensor)] for name, tensor in gate.tensors().items()},
                    "signal": asdict(gate.signal),
                    **selector_to_json(gate.selector),
                }
                for gate in self.gates
            ],
            "meta": self.meta,
        }
        with write_atomically(folder / "recipe.json") as path:
            path.write_text(json.dumps(record, indent=1) + "\n")


def load_recipe(folder: str | Path) -> Recipe:
    """Read what `Recipe.save` wrote.

    Raises:
        InputError: no recipe, a changed or damaged file, or a newer version.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / "recipe.json").read_text())
        version = record["version"]
    except Exception as error:  # a damaged file raises what its reader likes
        raise InputError(f"recipe: {folder}: no readable recipe.json here ({error})") from error
    if version != VERSION:
        raise InputError(f"recipe: {folder}: version {version}; this sparseact reads version {VERSION}; update it")
    try:
        unchanged = _sha256(folder / "recipe.safetensors") == record["tensors_sha256"]
        # Copied to aligned memory, which products round by: the recipe computes bit by bit what it did before.
        loaded = load_file(folder / "recipe.safetensors") if unchanged else {}
        tensors = {name: tensor.clone() for name, tensor in loaded.items()}
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


def _read_gate(record: dict[str, Any], tensors: dict[str, Tensor]) -> Gate:
    values = dict(record)
    site = Site(**values.pop("site"))
    signal = _read_signal(values.pop("signal"))
    frozen = values.pop("frozen")
    shares = values.pop("basis_shares")
    held = {name: tensors[key] for name, key in values.pop("tensors").items()}
    parts: dict[str, Any] = {name: held[name] for name in ("scale", "shift", "basis", "guess_error") if name in held}
    parts |= {
        name: tuple(held[f"{name}.{index}"] for index in range(count))
        for name, count in TUPLES.items()
        if f"{name}.0" in held
    }
    return Gate(site, selector_from_json(values), signal, frozen, basis_shares=shares, **parts)


def _read_signal(record: dict[str, Any]) -> Signal:
    times = record.get("times")
    return Signal(**record | {"part": tuple(record["part"]), "times": _read_signal(times) if times else None})


def fingerprint(model: PreTrainedModel, gates: Sequence[Gate]) -> str:
    """A hash of the gated linears' names and shapes, and of some of their weights as bfloat16.

    So that the same weights in another dtype are the same model.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    digest = hashlib.sha256(str(model.config.model_type).encode())
    for gate in gates:
        module: Any = modules.get(gate.site.module)
        weight = torch.zeros(0) if module is None else module.weight.detach()
        some = weight.flatten()[:: max(1, weight.numel() // 32)].to(torch.bfloat16).tolist()
        digest.update(f"{gate.site.module} {tuple(weight.shape)} {some}".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
