"""Nemotron-Mini and Minitron: squared ReLU without a gate, norms stored less 1, of which half of a head rotates."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture, Norm
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family, Layout
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming

LAYOUT = Layout("Nemotron", ("mlp.up_proj",), "mlp.down_proj", llama.QKV, "self_attn.o_proj")
NAMES = llama.NAMES | {"gate": "layers.{}.mlp.up_proj"}


def _read(config: Config) -> Architecture:
    config = replace(config, values={"partial_rotary_factor": 0.5, "hidden_act": "relu2", **config.values})
    epsilon = config.number("norm_eps", 1e-5)
    return replace(llama.read(config), gated=False, norm=Norm.LAYER, norm_epsilon=epsilon)


def _from_gguf(_metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return {"norm_eps": config["layer_norm_eps"]}


FAMILY = Family(
    "nemotron",
    LAYOUT,
    architecture=_read,
    naming=Naming(NAMES, added_to_norms=1.0),
    gguf=GGUF("nemotron", config=_from_gguf),
    tiny={"nemotron": {"num_key_value_heads": 2, "hidden_act": "relu2"}},
)
