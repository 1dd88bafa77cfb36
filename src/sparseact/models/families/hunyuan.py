"""Hunyuan without experts: a Llama whose queries and keys are normed after they rotate, by a stretched base."""

from dataclasses import replace

from sparseact.models.architecture import Architecture, QKNorm
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family
from sparseact.models.families.config import Config
from sparseact.models.rope import rope_parameters
from sparseact.models.tensor_names import Naming

_NAMES = llama.NAMES | {
    "q_norm": "layers.{}.self_attn.query_layernorm",
    "k_norm": "layers.{}.self_attn.key_layernorm",
}


def _read(config: Config) -> Architecture:
    rope, head_dim = rope_parameters(config.values), config.sizes()["head_dim"]
    if alpha := rope.get("alpha"):  # what the files call dynamic does not depend on the length
        stretched = rope["rope_theta"] * alpha ** (head_dim / (head_dim - 2))
        rope = {"rope_theta": stretched, "rope_type": "default"}
    config = replace(config, values={**config.values, "rope_parameters": rope})
    return replace(llama.read(config), qk_norm=QKNorm.ROTATED)


FAMILY = Family(
    "hunyuan_v1_dense",
    llama.LAYOUT,
    architecture=_read,
    naming=Naming(_NAMES),
    gguf=GGUF("hunyuan-dense"),
    tiny={
        "hunyuan": {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 1.0, "alpha": 5.0},
        }
    },
)
