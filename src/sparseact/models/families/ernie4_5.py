"""ERNIE 4.5 without experts (0.3B): a Llama whose heads rotate in neighbouring pairs."""

from dataclasses import replace

from sparseact.models.architecture import Architecture
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming


def _read(config: Config) -> Architecture:
    return replace(llama.read(config), tied=bool(config.get("tie_word_embeddings", True)))


FAMILY = Family(
    "ernie4_5",
    llama.LAYOUT,
    architecture=_read,
    naming=Naming(llama.NAMES, paired=True),
    gguf=GGUF("ernie4_5", paired=True, config=lambda _, config: {"use_bias": config["attention_bias"]}),
    tiny={"ernie4_5": {"num_key_value_heads": 1, "head_dim": 16}},
)
