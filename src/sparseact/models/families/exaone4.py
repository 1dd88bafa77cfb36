"""EXAONE 4: norms after attention and MLP, and of each head; where layers slide, those that do not do not rotate."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture, QKNorm
from sparseact.models.families import llama, olmo2
from sparseact.models.families.base import GGUF, TINY_LLAMA3, TINY_WINDOW, Family
from sparseact.models.families.config import Config
from sparseact.models.families.gemma2 import layer_kinds


def _read(config: Config) -> Architecture:
    plain = replace(olmo2.read(config), qk_norm=QKNorm.HEAD)
    if not config.get("sliding_window"):
        return plain
    pattern = config.get("sliding_window_pattern", 4)  # or a text like LLLG
    kinds = layer_kinds(config, pattern if isinstance(pattern, int) else len(pattern))
    rotation = config.rotation(kind == "sliding_attention" for kind in kinds)
    return replace(plain, windows=config.windows(kinds), **rotation)


def _from_gguf(_metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    full = {"layer_types": ["full_attention"] * config["num_hidden_layers"]}
    return {} if config["sliding_window"] else full


_TINY = {"num_key_value_heads": 2, "rope_parameters": TINY_LLAMA3}

FAMILY = Family(
    "exaone4",
    llama.LAYOUT,
    architecture=_read,
    naming=olmo2.NAMING,
    gguf=GGUF("exaone4", config=_from_gguf),
    tiny={
        "exaone4": _TINY | {"sliding_window": None, "layer_types": ["full_attention"] * 3},
        "exaone4-sliding": _TINY
        | {
            "sliding_window": TINY_WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    },
)
