"""Helium: a Llama whose heads rotate in neighbouring pairs."""

from sparseact.models.families import llama
from sparseact.models.families.base import Family
from sparseact.models.tensor_names import Naming

FAMILY = Family(
    "helium",
    llama.LAYOUT,
    architecture=llama.read,
    naming=Naming(llama.NAMES, paired=True),
    tiny={"helium": {"num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-8}},
)
