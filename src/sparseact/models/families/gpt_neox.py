"""GPT-NeoX and Pythia: attention and MLP side by side or one after the other, each with a norm; q, k and v by head."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture, Norm
from sparseact.models.families.base import GGUF, Family, Layout
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming

_NAMING = Naming(
    {
        "embed": "embed_in",
        "norm": "final_layer_norm",
        "head": "lm_head",
        **dict.fromkeys("qkv", "layers.{}.attention.query_key_value"),
        "o": "layers.{}.attention.dense",
        "gate": "layers.{}.mlp.dense_h_to_4h",
        "down": "layers.{}.mlp.dense_4h_to_h",
        "attention_norm": "layers.{}.input_layernorm",
        "mlp_norm": "layers.{}.post_attention_layernorm",
    },
    by_head=True,
    head_in_files="embed_out",
)


def _read(config: Config) -> Architecture:
    share = config.number("rotary_pct", 0.25)
    old = {"partial_rotary_factor": share, "rope_theta": config.number("rotary_emb_base", 1e4)}
    turned = replace(config, values={**old, **config.values})
    parallel = bool(config.get("use_parallel_residual", True))
    return Architecture(
        **config.sizes() | turned.rotation(),
        neurons=config.size("intermediate_size"),
        norm=Norm.LAYER,
        norm_epsilon=config.number("layer_norm_eps", 1e-5),
        activation=config.activation("hidden_act", "gelu"),
        gated=False,
        tied=bool(config.get("tie_word_embeddings", False)),
        windows=(0,) * config.size("num_hidden_layers"),
        parallel=parallel,
        parallel_norm=parallel,
    )


def _from_gguf(metadata: Mapping[str, Any], _config: Mapping[str, Any]) -> dict[str, Any]:
    return {"use_parallel_residual": metadata.get("use_parallel_residual", True), "hidden_act": "gelu"}


FAMILY = Family(
    "gpt_neox",
    Layout(
        "GPT-NeoX",
        ("mlp.dense_h_to_4h",),
        "mlp.dense_4h_to_h",
        ("attention.query_key_value",),
        "attention.dense",
    ),
    architecture=_read,
    naming=_NAMING,
    gguf=GGUF("gptneox", config=_from_gguf),
    tiny={
        "gpt-neox": {"use_parallel_residual": True, "rotary_pct": 0.5},
        "gpt-neox-sequential": {"use_parallel_residual": False, "rotary_pct": 0.5},
    },
)
