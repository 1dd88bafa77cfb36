"""Mamba 2: blocks of one state-space layer with heads of its own, and nothing else; its linears have channels."""

from sparseact.models.families.base import Family, Layout

FAMILY = Family(
    "mamba2",
    Layout("Mamba 2", (), "", ("mixer.in_proj",), "mixer.out_proj", has_heads=False),
    gated=False,
    engine_lacks="state-space layers",
    tiny={"mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}},
)
