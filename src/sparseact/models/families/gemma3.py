"""Gemma 3, also as a part of one that sees: of six layers five slide, and rotate by another base than the sixth."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture, QKNorm
from sparseact.models.families import gemma2, llama
from sparseact.models.families.base import GGUF, TINY_WINDOW, Family
from sparseact.models.families.config import Config
from sparseact.models.rope import rope_parameters

_FULL, _SLIDING = 1e6, 1e4
"""Rotary bases of the two kinds of layers, where a file does not say."""


def _read(config: Config) -> Architecture:
    kinds = gemma2.layer_kinds(config, config.size("sliding_window_pattern", 6))
    rotations = config.rotations(config.get("rope_parameters", _old_rotations(config)), kinds)
    return replace(gemma2.read(config, kinds), **rotations, qk_norm=QKNorm.HEAD)


def _old_rotations(config: Config) -> dict[str, Any]:
    """From the words of transformers 4, which named the two kinds apart and scaled full attention alone."""
    full = {"rope_theta": _FULL, **config.values, **config.get("rope_scaling", {})}
    return {
        "full_attention": rope_parameters(full),
        "sliding_attention": {"rope_theta": config.number("rope_local_base_freq", _SLIDING)},
    }


def _from_gguf(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    full = config["rope_parameters"] | {"rope_theta": metadata.get("rope.freq_base", _FULL)}
    sliding = {"rope_theta": metadata.get("rope.freq_base_swa", _SLIDING), "rope_type": "default"}
    rotations = {"full_attention": full, "sliding_attention": sliding}
    return {"rope_parameters": rotations} | gemma2.query_scaling(config, largest=62)


FAMILY = Family(
    "gemma3_text",
    llama.LAYOUT,
    architecture=_read,
    naming=gemma2.NAMING,
    gguf=GGUF("gemma3", config=_from_gguf),
    part_of="gemma3",
    text_defaults={  # of the 4B
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "bos_token_id": 2,
    },
    tiny={
        "gemma3": {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": TINY_WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        }
    },
)
