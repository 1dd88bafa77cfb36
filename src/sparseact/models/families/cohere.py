"""Cohere (Aya Expanse 8B): attention and MLP side by side, norms without biases, neighbouring pairs, scaled logits."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture, Norm
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming

NAMING = Naming(llama.NAMES, paired=True)
TINY = {"num_key_value_heads": 2, "logit_scale": 0.25}


def read(config: Config) -> Architecture:
    """What Cohere's families share."""
    config.refuse("use_qk_norm")
    return replace(
        llama.read(config),
        tied=bool(config.get("tie_word_embeddings", True)),
        norm=Norm.CENTRED,
        norm_epsilon=config.number("layer_norm_eps", 1e-5),
        parallel=True,
        logit_scale=config.number("logit_scale", 0.0625),
    )


def from_gguf(metadata: Mapping[str, Any], _config: Mapping[str, Any]) -> dict[str, Any]:
    """What Cohere's GGUF files say beside the rest."""
    return {"logit_scale": metadata.get("logit_scale")}


FAMILY = Family(
    "cohere",
    llama.LAYOUT,
    architecture=read,
    naming=NAMING,
    gguf=GGUF("command-r", paired=True, config=from_gguf),
    tiny={"cohere": TINY},
)
