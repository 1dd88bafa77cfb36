"""Seed-OSS: a Llama with biases on q, k and v."""

from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family

FAMILY = Family(
    "seed_oss",
    llama.LAYOUT,
    architecture=llama.read,
    naming=llama.NAMING,
    gguf=GGUF("seed_oss", names={"mlp_norm": "blk.{}.post_attention_norm"}),
    tiny={"seed_oss": {"num_key_value_heads": 1, "head_dim": 16, "attention_bias": True, "attention_out_bias": False}},
)
