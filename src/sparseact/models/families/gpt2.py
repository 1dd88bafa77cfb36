"""GPT-2: learned positions, q, k and v in one linear, linears stored as [inputs, outputs], words of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture, Norm
from sparseact.models.families.base import GGUF, TINY, Family, Layout
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming

_NAMING = Naming(
    {
        "embed": "wte",
        "positions": "wpe",
        "norm": "ln_f",
        "head": "lm_head",
        **dict.fromkeys("qkv", "h.{}.attn.c_attn"),
        "o": "h.{}.attn.c_proj",
        "gate": "h.{}.mlp.c_fc",
        "down": "h.{}.mlp.c_proj",
        "attention_norm": "h.{}.ln_1",
        "mlp_norm": "h.{}.ln_2",
    },
    transposed=True,
)
_WORDS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "n_inner": "intermediate_size",
    "layer_norm_epsilon": "layer_norm_eps",
}
"""GPT-2's words, and those of most families."""


def _read(config: Config) -> Architecture:
    config.refuse("scale_attn_by_inverse_layer_idx")
    config = replace(config, values={**config.values, **{common: config.get(own) for own, common in _WORDS.items()}})
    sizes = config.sizes()
    if not config.get("scale_attn_weights", True):
        sizes["attention_scale"] = 1.0
    return Architecture(
        **sizes,
        neurons=config.size("intermediate_size", 4 * sizes["hidden"]),
        norm=Norm.LAYER,
        norm_epsilon=config.number("layer_norm_eps", 1e-5),
        activation=config.activation("activation_function", "gelu_new"),
        gated=False,
        tied=bool(config.get("tie_word_embeddings", True)),
        windows=(0,) * sizes["layers"],
    )


def _own_words(_metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return {own: config.get(common) for own, common in _WORDS.items()}


FAMILY = Family(
    "gpt2",
    Layout("GPT-2", ("mlp.c_fc",), "mlp.c_proj", ("attn.c_attn",), "attn.c_proj"),
    architecture=_read,
    naming=_NAMING,
    gguf=GGUF("gpt2", config=_own_words),
    tiny={"gpt2": {"n_inner": TINY["intermediate_size"], "tie_word_embeddings": True}},
)
