"""Granite 3: a Llama with factors on the embedding, the attention, what is added to the residual, and the logits."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family
from sparseact.models.families.config import Config

TINY = {
    "num_key_value_heads": 2,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.3,
    "logits_scaling": 8.0,
}


def read(config: Config) -> Architecture:
    """A Granite. The residual is kept divided by the factor on what is added to it, which the norms do not see."""
    added, plain = config.number("residual_multiplier", 1.0), llama.read(config)
    return replace(
        plain,
        embedding_scale=config.number("embedding_multiplier", 1.0) / added,
        norm_epsilon=plain.norm_epsilon / added**2,
        attention_scale=config.number("attention_multiplier", 1.0),
        logit_scale=1 / config.number("logits_scaling", 1.0),
    )


def _from_gguf(metadata: Mapping[str, Any], _config: Mapping[str, Any]) -> dict[str, Any]:
    keys = {
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "attention_multiplier": "attention.scale",
        "logits_scaling": "logit_scale",
    }
    return {name: metadata.get(key) for name, key in keys.items()}


FAMILY = Family(
    "granite",
    llama.LAYOUT,
    architecture=read,
    naming=llama.NAMING,
    gguf=GGUF("granite", paired=True, config=_from_gguf),
    tiny={"granite": TINY},
)
