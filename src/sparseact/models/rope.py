"""Rotary position embeddings: the frequencies of a config, with the scalings that do not depend on the length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparseact.errors import UnsupportedModelError

ROPE_TYPES = ("default", "linear", "llama3")


def constant_factors(factors: Sequence[float], context: int) -> dict[str, Any]:
    """Parameters that divide each frequency by a factor, as GGUF files hold llama3's scaling.

    `longrope` is how transformers says this: it changes with the length of the text only if its factors do.
    """
    return {
        "rope_type": "longrope",
        "short_factor": [*factors],
        "long_factor": [*factors],
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a model whose layers all rotate alike, in transformers 4's or 5's words."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return {
        "rope_theta": config.get("rope_theta") or 10_000.0,
        "partial_rotary_factor": config.get("partial_rotary_factor") or 1.0,
        **given,
        "rope_type": given.get("rope_type", given.get("type", "default")),
    }


def frequencies(parameters: Mapping[str, Any], rotary_dim: int, *, where: str) -> tuple[float, ...]:
    """Radians per position [rotary_dim / 2] of one kind of layer.

    Args:
        parameters: `rope_theta`, `rope_type` and what the type needs, named as transformers does.
        rotary_dim: dimensions of a head that rotate.
        where: the model's source, for the error.

    Raises:
        UnsupportedModelError: the scaling changes with the length of the text, or is not known.
    """
    kind = parameters.get("rope_type", "default")
    factors = parameters.get("short_factor")
    constant = (
        kind == "longrope" and factors == parameters.get("long_factor") and parameters.get("attention_factor") == 1
    )
    if kind not in ROPE_TYPES and not constant:
        raise UnsupportedModelError(
            f"{where}: the engine has no rotary embedding of type {kind!r}; it has {', '.join(ROPE_TYPES)}"
        )
    # float32 as transformers computes them, so that far positions get the same angles.
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    plain: Any = (1.0 / np.float32(parameters["rope_theta"]) ** exponents).astype(np.float32)
    if kind == "linear":
        plain = plain / np.float32(parameters["factor"])
    elif constant:
        plain = plain / np.asarray(factors, dtype=np.float32)
    elif kind == "llama3":
        plain = _llama3(plain, parameters)
    return tuple(plain.astype(np.float32).tolist())


def _llama3(plain: Any, parameters: Mapping[str, Any]) -> Any:
    """Low frequencies divided by the factor, high ones kept, a ramp between (Llama 3.1)."""
    factor, original = parameters["factor"], parameters["original_max_position_embeddings"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    turns = original * plain / (2 * math.pi)  # of each pair over the original context
    ramp = np.clip((turns - low) / (high - low), 0, 1)
    return plain * (ramp + (1 - ramp) / factor)
