"""StableLM: a model of transformers only."""

from sparseact.models.families import llama
from sparseact.models.families.base import Family

FAMILY = Family("stablelm", llama.LAYOUT, tiny={"stablelm": {"num_key_value_heads": 2, "use_qkv_bias": True}})
