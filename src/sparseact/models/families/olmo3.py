"""OLMo 3: an OLMo 2 of whose layers three in four slide; the others rotate by yarn. Its GGUF files name it olmo2."""

from dataclasses import replace

from sparseact.models.architecture import Architecture
from sparseact.models.families import llama, olmo2
from sparseact.models.families.base import TINY_WINDOW, TINY_YARN, Family
from sparseact.models.families.config import Config
from sparseact.models.families.gemma2 import layer_kinds
from sparseact.models.rope import rope_parameters


def _read(config: Config) -> Architecture:
    kinds, given = layer_kinds(config, 4), config.get("rope_parameters", {})
    base = {"rope_theta": config.number("rope_theta", 5e5)}
    full = base | rope_parameters({**base, **config.values, "rope_parameters": None})
    by_kind = {kind: given.get(kind, full if kind == "full_attention" else base) for kind in {*kinds}}
    plain = olmo2.read(replace(config, values={**config.values, "rope_parameters": base, "rope_scaling": None}))
    return replace(plain, windows=config.windows(kinds), **config.rotations(by_kind, kinds))


FAMILY = Family(
    "olmo3",
    llama.LAYOUT,
    architecture=_read,
    naming=olmo2.NAMING,
    tiny={
        "olmo3": {
            "sliding_window": TINY_WINDOW,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": dict(TINY_YARN),
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        }
    },
)
