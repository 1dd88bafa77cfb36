"""LFM2: short convolutions, and attention with normed queries and keys in some blocks; a model of transformers only."""

from dataclasses import replace

from sparseact.models.families.base import Family, Layout

_ATTENTION = Layout(
    "LFM2",
    ("feed_forward.w1", "feed_forward.w3"),
    "feed_forward.w2",
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.out_proj",
)

FAMILY = Family(
    "lfm2",
    _ATTENTION,
    (replace(_ATTENTION, attention_in=("conv.in_proj",), attention_out="conv.out_proj", has_heads=False),),
    activation="silu",
    gated=True,
    engine_lacks="short convolutions",
    tiny={
        "lfm2": {
            "num_key_value_heads": 2,
            "intermediate_size": 72,  # of which it takes two thirds
            "block_multiple_of": 8,
            "layer_types": ["conv", "full_attention", "conv"],
        }
    },
)
