"""GPT-NeoX and Pythia: a model of transformers only, with attention and MLP side by side or one after the other."""

from sparseact.models.families.base import Family, Layout

FAMILY = Family(
    "gpt_neox",
    Layout(
        "GPT-NeoX",
        ("mlp.dense_h_to_4h",),
        "mlp.dense_4h_to_h",
        ("attention.query_key_value",),
        "attention.dense",
    ),
    tiny={
        "gpt-neox": {"use_parallel_residual": True, "rotary_pct": 0.5},
        "gpt-neox-sequential": {"use_parallel_residual": False, "rotary_pct": 0.5},
    },
)
