"""StableLM 2: a Llama with LayerNorms and biases on q, k and v; a quarter of a head rotates. The 12B is not run."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture, Norm
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family
from sparseact.models.families.config import Config


def _read(config: Config) -> Architecture:
    config.refuse("qk_layernorm")
    plain = llama.read(replace(config, values={"partial_rotary_factor": 0.25, **config.values}))
    epsilon, parallel = config.number("layer_norm_eps", 1e-5), bool(config.get("use_parallel_residual"))
    return replace(plain, norm=Norm.LAYER, norm_epsilon=epsilon, parallel=parallel)


def _from_gguf(_metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return {"use_qkv_bias": config["attention_bias"]}


FAMILY = Family(
    "stablelm",
    llama.LAYOUT,
    architecture=_read,
    naming=llama.NAMING,
    gguf=GGUF("stablelm", config=_from_gguf),
    tiny={
        "stablelm": {"num_key_value_heads": 2, "use_qkv_bias": True},
        "stablelm-parallel": {"num_key_value_heads": 2, "use_parallel_residual": True},
    },
)
