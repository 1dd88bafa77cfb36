"""Ministral (8B): a Mistral of whose layers some slide."""

from dataclasses import replace

from sparseact.models.architecture import Architecture
from sparseact.models.families import llama, mistral
from sparseact.models.families.base import TINY_WINDOW, Family
from sparseact.models.families.config import Config


def _read(config: Config) -> Architecture:
    kinds = config.get("layer_types")
    return mistral.read(config) if kinds is None else replace(llama.read(config), windows=config.windows(kinds))


FAMILY = Family(
    "ministral",
    llama.LAYOUT,
    architecture=_read,
    naming=llama.NAMING,
    tiny={
        "ministral": {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "sliding_window": TINY_WINDOW,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        }
    },
)
