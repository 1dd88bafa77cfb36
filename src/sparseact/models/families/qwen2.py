"""Qwen2 and 2.5: a Llama with biases on q, k and v, some of whose layers may slide."""

from dataclasses import replace

from sparseact.models.architecture import Architecture
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family
from sparseact.models.families.config import Config


def read(config: Config) -> Architecture:
    """A Qwen2; those that are published see everything."""
    if not config.get("use_sliding_window", False):
        return llama.read(config)
    layers, first = config.size("num_hidden_layers"), config.size("max_window_layers", 28)
    kinds = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
    return replace(llama.read(config), windows=config.windows(config.get("layer_types", kinds)))


FAMILY = Family(
    "qwen2",
    llama.LAYOUT,
    architecture=read,
    naming=llama.NAMING,
    gguf=GGUF("qwen2"),
    tiny={"qwen2": {"num_key_value_heads": 2}},
)
