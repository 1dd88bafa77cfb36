"""Qwen3: Qwen2 without the biases; the queries and keys of each head are normed."""

from dataclasses import replace

from sparseact.models.architecture import Architecture, QKNorm
from sparseact.models.families import llama, qwen2
from sparseact.models.families.base import GGUF, Family
from sparseact.models.families.config import Config


def _read(config: Config) -> Architecture:
    return replace(qwen2.read(config), qk_norm=QKNorm.HEAD)


FAMILY = Family(
    "qwen3",
    llama.LAYOUT,
    architecture=_read,
    naming=llama.NAMING,
    gguf=GGUF("qwen3"),
    tiny={"qwen3": {"num_key_value_heads": 2, "head_dim": 16}},
)
