"""Ministral 3, also as a part of one that sees: a Mistral by yarn, whose queries grow in texts beyond 16,384 tokens."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture
from sparseact.models.families import llama, mistral
from sparseact.models.families.base import GGUF, TINY_YARN, Family
from sparseact.models.families.config import Config
from sparseact.models.rope import rope_parameters


def read(config: Config) -> Architecture:
    """A Ministral 3, with the context up to where its queries grow."""
    plain, rope = mistral.read(config), rope_parameters(config.values)
    limit = rope.get("original_max_position_embeddings", plain.context)
    if not rope.get("llama_4_scaling_beta") or limit >= plain.context:
        return plain
    return replace(plain, context=limit, why_context=f"its queries are scaled in texts longer than {limit} tokens")


TINY = {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": None,
    "rope_parameters": {
        **TINY_YARN,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
        "original_max_position_embeddings": 96,
        "factor": 2.0,
    },
}


def _from_gguf(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    scale = metadata.get("attention.temperature_scale", 0.0)
    return {"rope_parameters": config["rope_parameters"] | {"llama_4_scaling_beta": scale}}


FAMILY = Family(
    "ministral3",
    llama.LAYOUT,
    architecture=read,
    naming=llama.NAMING,
    gguf=GGUF("mistral3", paired=True, config=_from_gguf),
    part_of="mistral3",
    tiny={"ministral3": TINY},
)
