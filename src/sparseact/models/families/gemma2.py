"""Gemma 2: norms after attention and MLP too, softcaps, every second layer slides. Gemma 3 shares most of it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture, Norm
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, TINY_WINDOW, Family
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming

NAMING = Naming(
    llama.NAMES
    | {
        "post_attention_norm": "layers.{}.post_attention_layernorm",
        "mlp_norm": "layers.{}.pre_feedforward_layernorm",
        "post_mlp_norm": "layers.{}.post_feedforward_layernorm",
    },
    added_to_norms=1.0,
)


def read(config: Config, kinds: list[str]) -> Architecture:
    """What Gemma 2 and 3 share, all but the rotation, for layers of these kinds."""
    return Architecture(
        **config.sizes() | {"attention_scale": config.number("query_pre_attn_scalar", 256) ** -0.5},
        neurons=config.size("intermediate_size"),
        norm=Norm.RMS,
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
        activation=config.activation("hidden_activation", "gelu_pytorch_tanh"),
        gated=True,
        tied=bool(config.get("tie_word_embeddings", True)),
        windows=config.windows(kinds),
        post_norms=True,
        final_softcap=config.number("final_logit_softcapping", 0.0),
        embedding_scale=config.size("hidden_size") ** 0.5,
    )


def layer_kinds(config: Config, pattern: int) -> list[str]:
    """The kinds of the layers; if the config does not list them, every `pattern`-th sees everything."""
    layers = range(1, config.size("num_hidden_layers") + 1)
    return config.get("layer_types", ["sliding_attention" if i % pattern else "full_attention" for i in layers])


def query_scaling(config: Mapping[str, Any], largest: int) -> dict[str, float]:
    """What GGUF files do not say: the model of `largest` layers scales by hidden / heads, others by head_dim."""
    by_hidden = config["hidden_size"] / config["num_attention_heads"]
    return {"query_pre_attn_scalar": by_hidden if config["num_hidden_layers"] == largest else config["head_dim"]}


def read_2(config: Config) -> Architecture:
    """A Gemma 2."""
    return replace(
        read(config, layer_kinds(config, 2)),
        **config.rotation(),
        # Absent means the default of the family, null means none.
        attention_softcap=config.values.get("attn_logit_softcapping", 50.0) or 0.0,
        final_softcap=config.values.get("final_logit_softcapping", 30.0) or 0.0,
    )


TINY = {
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": TINY_WINDOW,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 5.0,
}

FAMILY = Family(
    "gemma2",
    llama.LAYOUT,
    architecture=read_2,
    naming=NAMING,
    gguf=GGUF("gemma2", config=lambda _, config: query_scaling(config, largest=46)),
    tiny={"gemma2": TINY},
)
