"""Mamba: blocks of one state-space layer and nothing else; its linears have channels."""

from sparseact.models.families.base import Family, Layout

# Not `dt_proj`, whose weight is read past the linear.
_LAYOUT = Layout("Mamba", (), "", ("mixer.in_proj",), "mixer.out_proj", has_heads=False, others=("mixer.x_proj",))

FAMILY = Family(
    "mamba",
    _LAYOUT,
    gated=False,
    engine_lacks="state-space layers",
    tiny={"mamba": {"state_size": 8}},
)
