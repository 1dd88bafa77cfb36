"""OLMo 2: a model of transformers only."""

from sparseact.models.families import llama
from sparseact.models.families.base import Family

FAMILY = Family("olmo2", llama.LAYOUT, tiny={"olmo2": {"num_key_value_heads": 2}})
