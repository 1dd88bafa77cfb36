"""Phi-3: a Mistral with q, k and v in one linear, and gate and up in another."""

from sparseact.models.families import llama, mistral
from sparseact.models.families.base import Family, Layout
from sparseact.models.tensor_names import Naming

_NAMES = (
    llama.NAMES
    | dict.fromkeys("qkv", "layers.{}.self_attn.qkv_proj")
    | dict.fromkeys(("gate", "up"), "layers.{}.mlp.gate_up_proj")
)

FAMILY = Family(
    "phi3",
    Layout("Phi-3", ("mlp.gate_up_proj",), "mlp.down_proj", ("self_attn.qkv_proj",), "self_attn.o_proj"),
    architecture=mistral.read,
    naming=Naming(_NAMES),
    tiny={"phi3": {"num_key_value_heads": 2}},
)
