"""transformers' eager model, dense or under a recipe's hooks: the reference, and what most people run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from sparseact.engine.load.load_model import formats_of
from sparseact.engine.load.load_model import load_model as load_weights
from sparseact.models import load as load_model
from sparseact.models import weights_path
from sparseact.models.weights import open_weights
from sparseact.policies import load_recipe
from sparseact.sites import weight_bytes
from sparseact.utils.environment import installed_versions

Logits = NDArray[np.float32]
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class _Eager:
    """A model and its cache. See worker.Model."""

    def __init__(self, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        torch.set_grad_enabled(False)  # for the whole process
        self.model, _ = load_model(options["model"], device="cpu", dtype=DTYPES[options["dtype"]])
        self.density = None
        if options.get("recipe"):
            self.hooks = ExitStack()  # kept, for the hooks to live as long as this model
            self.density = self.hooks.enter_context(load_recipe(options["recipe"])(self.model))
        if options.get("rounded"):  # after the recipe, which knows its model by the weights
            take_weights(self.model, weights_path(options["model"]), options["rounded"])
        self.reset()

    def reset(self) -> None:
        self.cache = DynamicCache(config=self.model.config)

    def read(self, ids: Sequence[int]) -> Logits:
        output = self.model(torch.tensor([ids]), past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        logits: Logits = output.logits[0, -1].float().numpy()
        return logits

    def bytes_per_token(self) -> float:
        return self.density.bytes_per_token("decode") if self.density else weight_bytes(self.model)

    def versions(self) -> dict[str, str]:
        return installed_versions(("torch", "transformers"))


def take_weights(model: PreTrainedModel, path: Path, dtype: str) -> None:
    """Give a model's linears the values that the engine's have.

    Args:
        model: changed in place.
        path: the same weights in a GGUF file or a folder, which the engine reads.
        dtype: the engine's type.
    """
    weights, parameters = open_weights(path), dict(model.named_parameters(remove_duplicate=False))
    held = load_weights(weights, formats_of(weights, dtype), {})
    for name, place in open_weights(model).places.items():
        if name in held.numbers:
            values = torch.from_numpy(np.ascontiguousarray(held.weight(name)))
            target = parameters[place.name].T if place.transposed else parameters[place.name]
            target[place.first : place.first + len(values)] = values.to(target.dtype)


def load(options: dict[str, Any]) -> _Eager:
    """Anything that `sparseact.load` takes: options model, dtype (f32, bf16, f16), threads; recipe; `rounded`, a type
    of the engine whose values the weights get.
    """
    return _Eager(options)
