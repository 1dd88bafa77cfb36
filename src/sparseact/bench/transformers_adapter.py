"""transformers' eager model, dense or under a recipe's hooks: the reference, and what most people run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from sparseact.environment import installed_versions
from sparseact.models import load as load_model
from sparseact.policies import load_recipe
from sparseact.sites import weight_bytes

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
        self.reset()

    def reset(self) -> None:
        self.cache = DynamicCache(config=self.model.config)

    def read(self, ids: Sequence[int]) -> Logits:
        output = self.model(torch.tensor([ids]), past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.logits: Logits = output.logits[0, -1].float().numpy()
        return self.logits

    def step(self, token: int) -> Logits:
        return self.read([token])

    def greedy(self, tokens: int) -> list[int]:
        ids = []
        for _ in range(tokens):
            ids.append(int(self.logits.argmax()))
            self.read(ids[-1:])
        return ids

    def bytes_per_token(self) -> float:
        return self.density.bytes_per_token("decode") if self.density else weight_bytes(self.model)

    def versions(self) -> dict[str, str]:
        return installed_versions(("torch", "transformers"))


def load(options: dict[str, Any]) -> _Eager:
    """Anything that `sparseact.load` takes: options model, dtype (f32, bf16, f16), threads; recipe."""
    return _Eager(options)
