"""Granite 4 without experts and state-space layers (Micro): a Granite 3, with gate and up in one linear."""

from dataclasses import replace

from sparseact.errors import UnsupportedModelError
from sparseact.models.architecture import Architecture
from sparseact.models.families import base, granite, llama
from sparseact.models.families.base import Family, Layout
from sparseact.models.families.config import LISTED, Config
from sparseact.models.tensor_names import Naming

_NAMES = (
    llama.NAMES
    | dict.fromkeys(("gate", "up"), "layers.{}.shared_mlp.input_linear")
    | {"down": "layers.{}.shared_mlp.output_linear"}
)


def _read(config: Config) -> Architecture:
    config.refuse("num_local_experts")
    layers = config.size("num_hidden_layers")
    kinds = config.get("layer_types", config.get("layers_block_type", ["mamba"] * layers))
    if other := sorted({*kinds} - {"attention", "full_attention"}):
        raise UnsupportedModelError(
            f"{config.where}: the engine does not run models of type {config.get('model_type')!r} with layers of type "
            f"{', '.join(other)}: it has no state-space layers; {LISTED}"
        )
    rotates = config.get("position_embedding_type") == "rope"
    neurons = config.size("shared_intermediate_size")
    plain = granite.read(replace(config, values={**config.values, "intermediate_size": neurons}))
    rotation = config.rotation([rotates] * layers)
    return replace(plain, **rotation)


_TINY = granite.TINY | {
    "shared_intermediate_size": base.TINY["intermediate_size"],
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "layer_types": ["attention"] * base.TINY["num_hidden_layers"],
    "mamba_n_heads": 8,  # of which there are none, but a config of transformers must be consistent
}

FAMILY = Family(
    "granitemoehybrid",
    Layout("Granite 4", ("shared_mlp.input_linear",), "shared_mlp.output_linear", llama.QKV, "self_attn.o_proj"),
    gated=True,
    architecture=_read,
    naming=Naming(_NAMES),
    tiny={  # their GGUF files name it granite
        "granite4": _TINY | {"position_embedding_type": "rope"},
        "granite4-nope": _TINY | {"position_embedding_type": "nope"},
    },
)
