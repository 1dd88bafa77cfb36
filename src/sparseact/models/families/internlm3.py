"""InternLM3: a Llama whose rotation changes beyond its context. Its GGUF files name it llama."""

from sparseact.models.families import llama
from sparseact.models.families.base import Family

_ROTATION = {"rope_type": "dynamic", "rope_theta": 5e7, "factor": 6.0}

FAMILY = Family(
    "internlm3",
    llama.LAYOUT,
    architecture=llama.read,
    naming=llama.NAMING,
    tiny={"internlm3": {"num_key_value_heads": 1, "head_dim": 16, "rope_parameters": _ROTATION}},
)
