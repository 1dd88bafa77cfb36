"""Code World Model: a Llama 3 of whose layers some slide. Its GGUF files name it llama."""

from dataclasses import replace

from sparseact.models.architecture import Architecture
from sparseact.models.families import llama
from sparseact.models.families.base import TINY_LLAMA3, TINY_WINDOW, Family
from sparseact.models.families.config import Config


def _read(config: Config) -> Architecture:
    layers = range(config.size("num_hidden_layers"))
    kinds = ["sliding_attention" if layer % 4 else "full_attention" for layer in layers]
    return replace(llama.read(config), windows=config.windows(config.get("layer_types", kinds)))


FAMILY = Family(
    "cwm",
    llama.LAYOUT,
    architecture=_read,
    naming=llama.NAMING,
    tiny={
        "cwm": {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "sliding_window": TINY_WINDOW,
            "rope_parameters": TINY_LLAMA3,
        }
    },
)
