"""Gemma 4 (E2B, E4B), also as a part of one that sees and hears: embeddings per layer, shared keys, two head sizes."""

from dataclasses import replace

from sparseact.models.families import llama
from sparseact.models.families.base import TINY_WINDOW, Family

_LAYOUT = replace(llama.LAYOUT, name="Gemma 4", others=("per_layer_input_gate", "per_layer_projection"))
_SHARED = replace(_LAYOUT, attention_in=("self_attn.q_proj",))
"""Of the last layers, which read the keys and values of one before them."""

FAMILY = Family(
    "gemma4_text",
    _LAYOUT,
    (_SHARED,),
    gated=True,
    engine_lacks="embeddings per layer, shared keys and head sizes per layer",
    part_of="gemma4",
    tiny={
        "gemma4": {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "global_head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": TINY_WINDOW,
            "final_logit_softcapping": 5.0,
            "vocab_size_per_layer_input": 64,
            "hidden_size_per_layer_input": 8,
            "use_double_wide_mlp": True,
        }
    },
)
