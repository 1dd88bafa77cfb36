"""Phi-3, 3.5 and 4-mini: a Mistral with q, k and v in one linear, and gate and up in another; or by longrope."""

from collections.abc import Mapping
from typing import Any

from sparseact.models.families import llama, mistral
from sparseact.models.families.base import GGUF, Family, Layout
from sparseact.models.tensor_names import Naming

_NAMES = (
    llama.NAMES
    | dict.fromkeys("qkv", "layers.{}.self_attn.qkv_proj")
    | dict.fromkeys(("gate", "up"), "layers.{}.mlp.gate_up_proj")
)

_LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.2, 1.5],
    "long_factor": [1.0, 4.0, 9.0],
    "original_max_position_embeddings": 96,
}


def _from_gguf(metadata: Mapping[str, Any], _config: Mapping[str, Any]) -> dict[str, Any]:
    return {"original_max_position_embeddings": metadata.get("rope.scaling.original_context_length")}


FAMILY = Family(
    "phi3",
    Layout("Phi-3", ("mlp.gate_up_proj",), "mlp.down_proj", ("self_attn.qkv_proj",), "self_attn.o_proj"),
    architecture=mistral.read,
    naming=Naming(_NAMES),
    gguf=GGUF("phi3", config=_from_gguf),
    tiny={
        "phi3": {"num_key_value_heads": 2},
        "phi4-mini": {
            "num_key_value_heads": 2,
            "original_max_position_embeddings": 96,
            "rope_parameters": _LONGROPE | {"partial_rotary_factor": 0.75},
        },
    },
)
