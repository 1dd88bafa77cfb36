"""Apertus: a model of transformers only, for its activation (xIELU) has weights of its own, which are never 0."""

from sparseact.models.families import nemotron
from sparseact.models.families.base import TINY_LLAMA3, Family

FAMILY = Family(
    "apertus",
    nemotron.LAYOUT,
    engine_lacks="activation with weights of its own (xIELU)",
    tiny={"apertus": {"num_key_value_heads": 2, "rope_parameters": TINY_LLAMA3}},
)
