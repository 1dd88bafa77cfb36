"""Gemma 1: a Llama with a scaled embedding, norms stored less 1, and gelu by tanh."""

from dataclasses import replace

from sparseact.models.architecture import Activation, Architecture
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming


def _read(config: Config) -> Architecture:
    return replace(
        llama.read(
            replace(config, values={**config.values, "tie_word_embeddings": config.get("tie_word_embeddings", True)})
        ),
        embedding_scale=config.size("hidden_size") ** 0.5,
        activation=Activation.GELU_TANH,  # whatever the published configs say
    )


FAMILY = Family(
    "gemma",
    llama.LAYOUT,
    architecture=_read,
    naming=Naming(llama.NAMES, added_to_norms=1.0),
    gguf=GGUF("gemma"),
    tiny={"gemma": {"num_key_value_heads": 1, "head_dim": 16}},
)
