"""SmolLM3: a Llama of which every fourth layer does not rotate."""

from dataclasses import replace

from sparseact.models.architecture import Architecture
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family
from sparseact.models.families.config import Config


def _read(config: Config) -> Architecture:
    config.refuse("use_sliding_window")
    layers, every = config.size("num_hidden_layers"), config.size("no_rope_layer_interval", 4)
    rotates = config.get("no_rope_layers", [(layer + 1) % every for layer in range(layers)])
    tied = bool(config.get("tie_word_embeddings", True))
    return replace(llama.read(config), tied=tied, **config.rotation(rotates[layer] for layer in range(layers)))


FAMILY = Family(
    "smollm3",
    llama.LAYOUT,
    architecture=_read,
    naming=llama.NAMING,
    gguf=GGUF("smollm3", paired=True),
    tiny={"smollm3": {"num_key_value_heads": 1, "num_hidden_layers": 5}},
)
