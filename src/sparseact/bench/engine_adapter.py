"""Our own engine, dense or with a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sparseact
from sparseact.bench.random_weights import random_weights
from sparseact.bench.rules import rule_recipe
from sparseact.bench.shapes import shape_of
from sparseact.engine.engine import Engine
from sparseact.utils.environment import installed_versions

Logits = NDArray[np.float32]


class _Compiled:
    """See worker.Model."""

    def __init__(self, options: dict[str, Any]) -> None:
        if options.get("shape"):
            self.engine = _random(options)
        else:
            wanted = {name: options[name] for name in ("recipe", "dtype", "threads", "screen") if name in options}
            self.engine = Engine.from_model(options["model"], **wanted)

    def reset(self) -> None:
        self.engine.reset()

    def read(self, ids: Sequence[int]) -> Logits:
        return self.engine.prefill(ids)

    def step(self, token: int) -> Logits:
        return self.engine.step(token)

    def greedy(self, tokens: int) -> list[int]:
        # The last token that `greedy` gives is chosen, but not read yet.
        return self.engine.greedy(tokens + 1)[:-1]

    def bytes_per_token(self) -> float:
        return self.engine.bytes_per_token()

    def versions(self) -> dict[str, str]:
        return {"sparseact": sparseact.__version__} | installed_versions(("numba", "llvmlite"))


def _random(options: dict[str, Any]) -> Engine:
    weights = random_weights(shape_of(options["model"]), options["dtype"])
    rule, dtype = options["rule"], options["dtype"]
    recipe = rule_recipe(weights, rule, options["density"], dtype=dtype) if rule else None
    of_engine = {name: options[name] for name in ("dtype", "threads", "context")}
    return Engine(weights, recipe=recipe, **of_engine)


def load(options: dict[str, Any]) -> _Compiled:
    """Anything that `Engine.from_model` takes: options model; dtype, threads, recipe, screen.

    Or, with the option `shape`, random weights: model is then the name of a shape; dtype, threads, context; `rule` and
    `density`, see `rules`.
    """
    return _Compiled(options)
