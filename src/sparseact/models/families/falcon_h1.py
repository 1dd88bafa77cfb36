"""Falcon-H1: attention and a state-space layer side by side in every block, and factors on nearly everything."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.families import llama
from sparseact.models.families.base import Family


def _gate_factor(config: Mapping[str, Any]) -> float:
    return float((config.get("mlp_multipliers") or (1.0,))[0])


FAMILY = Family(
    "falcon_h1",
    replace(
        llama.LAYOUT,
        name="Falcon-H1",
        mlp_in=("feed_forward.gate_proj", "feed_forward.up_proj"),
        mlp_out="feed_forward.down_proj",
        others=("mamba.in_proj", "mamba.out_proj"),
    ),
    gate_factor=_gate_factor,
    gated=True,
    engine_lacks="state-space layers",
    tiny={
        "falcon-h1": {
            "num_key_value_heads": 2,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
            "mamba_norm_before_gate": False,
            "embedding_multiplier": 2.0,
            "lm_head_multiplier": 0.5,
            "mlp_multipliers": [0.7, 0.6],
            "key_multiplier": 0.4,
            "attention_in_multiplier": 1.2,
            "attention_out_multiplier": 0.9,
            "ssm_multipliers": [0.7, 0.5, 0.4, 0.6, 0.8],
            "ssm_in_multiplier": 1.3,
            "ssm_out_multiplier": 0.5,
        }
    },
)
