"""Rotary position embeddings: how the heads of a config rotate, up to the length where that would change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparseact.errors import UnsupportedModelError

ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope", "dynamic")


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
    beside = {name: config[name] for name in ("original_max_position_embeddings",) if config.get(name)}  # in Phi-3
    return beside | {
        "rope_theta": config.get("rope_theta") or 10_000.0,
        "partial_rotary_factor": config.get("partial_rotary_factor") or 1.0,
        **given,
        "rope_type": given.get("rope_type", given.get("type", "default")),
    }


@dataclass(frozen=True)
class Rotation:
    """How the heads of one kind of layer rotate.

    Attributes:
        frequencies: radians per position [rotary_dim / 2].
        scale: factor on cosines and sines.
        limit: positions up to which this holds; 0 for all.
    """

    frequencies: tuple[float, ...]
    scale: float = 1.0
    limit: int = 0


def rotation(parameters: Mapping[str, Any], rotary_dim: int, context: int, *, where: str) -> Rotation:
    """The rotation of one kind of layer.

    Of the scalings that change with the length of the text (longrope, dynamic) it is what holds up to the length of
    the texts that the model was first trained on.

    Args:
        parameters: `rope_theta`, `rope_type` and what the type needs, named as transformers does.
        rotary_dim: dimensions of a head that rotate.
        context: positions of the model.
        where: the model's source, for the error.

    Raises:
        UnsupportedModelError: the type is not known.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        raise UnsupportedModelError(
            f"{where}: the engine has no rotary embedding of type {kind!r}; it has {', '.join(ROPE_TYPES)}"
        )
    # float32 as transformers computes them, so that far positions get the same angles.
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    powers: Any = np.float32(parameters["rope_theta"]) ** exponents
    plain: Any = (1.0 / powers).astype(np.float32)
    scale, limit = 1.0, 0
    if kind == "linear":
        plain = plain / np.float32(parameters["factor"])
    elif kind == "llama3":
        plain = _llama3(plain, parameters)
    elif kind == "yarn":
        plain, scale = _yarn(powers, parameters, context), _yarn_scale(parameters, context)
    elif kind == "longrope":
        factors, original = parameters["short_factor"], parameters["original_max_position_embeddings"]
        plain = 1 / (np.asarray(factors, dtype=np.float32) * powers)
        scale = _longrope_scale(parameters, context)
        limit = 0 if factors == parameters["long_factor"] else original
    elif kind == "dynamic":
        limit = context
    return Rotation(tuple(plain.astype(np.float32).tolist()), scale, limit)


def _llama3(plain: Any, parameters: Mapping[str, Any]) -> Any:
    """Low frequencies divided by the factor, high ones kept, a ramp between (Llama 3.1)."""
    factor, original = parameters["factor"], parameters["original_max_position_embeddings"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    turns = original * plain / (2 * math.pi)  # of each pair over the original context
    ramp = np.clip((turns - low) / (high - low), 0, 1)
    return plain * (ramp + (1 - ramp) / factor)


def _factor(parameters: Mapping[str, Any], context: int) -> float:
    return float(parameters.get("factor") or context / parameters["original_max_position_embeddings"])


def _yarn(powers: Any, parameters: Mapping[str, Any], context: int) -> Any:
    """Low frequencies divided by the factor, high ones kept, a ramp by the pair's number between (arXiv 2309.00071)."""
    base, pairs = parameters["rope_theta"], len(powers)

    def pair_that_turns(times: float) -> float:
        original = parameters["original_max_position_embeddings"]
        return pairs * math.log(original / (times * 2 * math.pi)) / math.log(base)

    first = pair_that_turns(parameters.get("beta_fast") or 32)
    last = pair_that_turns(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    last += 0.001 if first == last else 0.0
    ramp = np.clip((np.arange(pairs, dtype=np.float32) - np.float32(first)) / np.float32(last - first), 0, 1)
    kept = 1 - ramp
    return 1 / (np.float32(_factor(parameters, context)) * powers) * (1 - kept) + 1 / powers * kept


def _yarn_scale(parameters: Mapping[str, Any], context: int) -> float:
    """As transformers has it: from the factor, in models of Mistral and DeepSeek by a quotient that is mostly 1."""
    logarithm = 0.1 * math.log(max(1.0, _factor(parameters, context)))
    upper, lower = parameters.get("mscale"), parameters.get("mscale_all_dim")
    computed = (upper * logarithm + 1) / (lower * logarithm + 1) if upper and lower else logarithm + 1
    return float(parameters.get("attention_factor") or computed)


def _longrope_scale(parameters: Mapping[str, Any], context: int) -> float:
    factor, original = _factor(parameters, context), parameters["original_max_position_embeddings"]
    computed = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return float(parameters.get("attention_factor") or computed)
