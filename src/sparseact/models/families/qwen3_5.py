"""Qwen3.5 without experts, also as a part of one that sees: three blocks of gated delta rule to one of attention."""

from dataclasses import replace

from sparseact.models.families import llama
from sparseact.models.families.base import Family

FAMILY = Family(
    "qwen3_5_text",
    llama.LAYOUT,
    (
        replace(
            llama.LAYOUT,
            name="Qwen3.5",
            attention_in=tuple(f"linear_attn.in_proj_{part}" for part in ("qkv", "z", "b", "a")),
            attention_out="linear_attn.out_proj",
            has_heads=False,
        ),
    ),
    gated=True,
    engine_lacks="linear attention by the gated delta rule",
    part_of="qwen3_5",
    tiny={
        "qwen3.5": {
            "num_key_value_heads": 2,
            "head_dim": 8,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        }
    },
)
