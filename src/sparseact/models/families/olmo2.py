"""OLMo 2: a Llama that norms what attention and MLP put out, not what they read; queries and keys are normed whole."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture, QKNorm
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming

NAMING = Naming(
    llama.NAMES
    | {
        "post_attention_norm": "layers.{}.post_attention_layernorm",
        "post_mlp_norm": "layers.{}.post_feedforward_layernorm",
    }
)


def read(config: Config) -> Architecture:
    """An OLMo 2."""
    return replace(llama.read(config), pre_norms=False, post_norms=True, qk_norm=QKNorm.WHOLE)


def _from_gguf(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """OLMo 3, which such files name olmo2, is what has a window."""
    if not metadata.get("attention.sliding_window"):
        return {}
    full, base = config["rope_parameters"], config["rope_parameters"]["rope_theta"]
    sliding = {"rope_type": "default", "rope_theta": metadata.get("rope.freq_base_swa", base)}
    return {"model_type": "olmo3", "rope_parameters": {"full_attention": full, "sliding_attention": sliding}}


FAMILY = Family(
    "olmo2",
    llama.LAYOUT,
    architecture=read,
    naming=NAMING,
    gguf=GGUF("olmo2", config=_from_gguf),
    tiny={"olmo2": {"num_key_value_heads": 2}},
)
