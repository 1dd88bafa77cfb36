"""Cohere 2 (Command R7B, Tiny Aya): a Cohere of whose layers three in four slide; the others do not rotate."""

from dataclasses import replace

from sparseact.models.architecture import Architecture
from sparseact.models.families import cohere, llama
from sparseact.models.families.base import GGUF, TINY_WINDOW, Family
from sparseact.models.families.config import Config
from sparseact.models.families.gemma2 import layer_kinds


def _read(config: Config) -> Architecture:
    kinds = layer_kinds(config, config.size("sliding_window_pattern", 4))
    rotation = config.rotation(kind == "sliding_attention" for kind in kinds)
    return replace(cohere.read(config), windows=config.windows(kinds), **rotation)


FAMILY = Family(
    "cohere2",
    llama.LAYOUT,
    architecture=_read,
    naming=cohere.NAMING,
    gguf=GGUF("cohere2", paired=True, config=cohere.from_gguf),
    tiny={"cohere2": cohere.TINY | {"sliding_window": TINY_WINDOW, "num_hidden_layers": 5}},
)
