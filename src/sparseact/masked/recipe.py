"""A recipe on a model of transformers: whether it is the one that it was calibrated on, and the masks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sparseact.errors import InputError
from sparseact.masked.apply import run_sparse
from sparseact.masked.density import Density
from sparseact.models.formats import Floats
from sparseact.recipes.fingerprint import fingerprint, is_same, sampled
from sparseact.recipes.gate import Gate
from sparseact.recipes.recipe import Recipe
from sparseact.sites import refuse_compiled

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run_recipe(recipe: Recipe, model: PreTrainedModel) -> AbstractContextManager[Density]:
    """Run `model` sparsely inside the `with` block, which gives the counts of what was read.

    Raises:
        InputError: the recipe was calibrated on another model, or the model is compiled.
    """
    refuse_compiled(model)
    if not is_same(recipe.model, fingerprint_of(model, recipe.gates)):
        raise InputError(
            f"the recipe ({recipe.policy}, sparsity {recipe.sparsity}) was calibrated on another model than this "
            f"{type(model).__name__}, or on other weights; calibrate again"
        )
    # Sites count the bytes of the dtype that they were calibrated in.
    factor = model.dtype.itemsize / recipe.meta.get("element_size", model.dtype.itemsize)
    gates = [replace(gate, site=replace(gate.site, unit_bytes=gate.site.unit_bytes * factor)) for gate in recipe.gates]
    return run_sparse(model, gates, recipe.phases)


def fingerprint_of(model: PreTrainedModel, gates: Sequence[Gate]) -> str:
    """What a recipe with these gates knows the model by."""
    modules = dict(model.named_modules(remove_duplicate=False))

    def looked_at(name: str) -> tuple[str, tuple[int, ...], Floats]:
        module: Any = modules.get(name)
        weight = torch.zeros(0) if module is None else module.weight.detach()
        shape = tuple(weight.shape)
        return name, shape, weight.flatten()[:: sampled(shape).step].float().cpu().numpy()

    return fingerprint(model.config.model_type, (looked_at(gate.site.module) for gate in gates))
