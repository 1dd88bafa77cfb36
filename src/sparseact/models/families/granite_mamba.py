"""Granite 4 with state-space layers and without experts (H-Micro, H-1B, H-350M): most blocks have one for attention."""

from dataclasses import replace

from sparseact.models.families import granite_hybrid
from sparseact.models.families.base import Family

FAMILY = Family(
    "granitemoehybrid",
    granite_hybrid.FAMILY.layout,
    (
        replace(
            granite_hybrid.FAMILY.layout,
            attention_in=("mamba.in_proj",),
            attention_out="mamba.out_proj",
            has_heads=False,
        ),
    ),
    gated=True,
    engine_lacks="state-space layers",
    tiny={
        "granite4-h": {
            **granite_hybrid.FAMILY.tiny["granite4-nope"],
            "layer_types": ["mamba", "attention", "mamba"],
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
            "mamba_n_groups": 1,
        }
    },
)
