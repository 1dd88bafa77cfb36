"""Gemma 3n, also as a part of one that sees and hears: embeddings per layer, several streams, shared keys."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.families import llama
from sparseact.models.families.base import TINY_WINDOW, Family

_LAYOUT = replace(
    llama.LAYOUT,
    name="Gemma 3n",
    others=("laurel.linear_left", "laurel.linear_right", "per_layer_input_gate", "per_layer_projection"),
)
_SHARED = replace(_LAYOUT, attention_in=("self_attn.q_proj",))
"""Of the last layers, which read the keys and values of one before them."""


def _own_sparsity(config: Mapping[str, Any]) -> tuple[float, ...]:
    """Its `activation_sparsity_pattern`; where a file does not say, the first ten layers of more than ten."""
    layers = int(config.get("num_hidden_layers") or 0)
    sparse = 10 if layers > 10 else 0
    return tuple(config.get("activation_sparsity_pattern") or (*[0.95] * sparse, *[0.0] * (layers - sparse)))


FAMILY = Family(
    "gemma3n_text",
    _LAYOUT,
    (_SHARED,),
    gated=True,
    own_sparsity=_own_sparsity,
    engine_lacks="embeddings per layer, streams of AltUp and shared keys",
    part_of="gemma3n",
    tiny={
        "gemma3n": {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": TINY_WINDOW,
            "final_logit_softcapping": 5.0,
            "vocab_size_per_layer_input": 60,  # less than the vocabulary, as in the real ones
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.75, 0.75, 0.0, 0.0],
        }
    },
)
