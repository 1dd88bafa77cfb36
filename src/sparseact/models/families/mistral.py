"""Mistral: a Llama whose layers all have one sliding window, or none. Its GGUF files name it llama."""

from dataclasses import replace

from sparseact.models.architecture import Architecture
from sparseact.models.families import llama
from sparseact.models.families.base import TINY_WINDOW, Family
from sparseact.models.families.config import Config


def read(config: Config) -> Architecture:
    """A Mistral."""
    window = config.size("sliding_window") if config.get("sliding_window") else 0
    return replace(llama.read(config), windows=(window,) * config.size("num_hidden_layers"))


FAMILY = Family(
    "mistral",
    llama.LAYOUT,
    architecture=read,
    naming=llama.NAMING,
    tiny={"mistral": {"num_key_value_heads": 2, "sliding_window": TINY_WINDOW}},
)
