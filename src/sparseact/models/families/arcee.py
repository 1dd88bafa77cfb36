"""Arcee (AFM): a Llama whose MLP has no gate and squared ReLU."""

from dataclasses import replace

from sparseact.models.architecture import Architecture
from sparseact.models.families import llama, nemotron
from sparseact.models.families.base import GGUF, TINY_YARN, Family
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming


def _read(config: Config) -> Architecture:
    return replace(llama.read(replace(config, values={"hidden_act": "relu2", **config.values})), gated=False)


FAMILY = Family(
    "arcee",
    nemotron.LAYOUT,
    architecture=_read,
    naming=Naming(nemotron.NAMES),
    gguf=GGUF("arcee", paired=True, config=lambda *_: {"hidden_act": "relu2"}),
    tiny={"arcee": {"num_key_value_heads": 1, "head_dim": 16, "rope_parameters": TINY_YARN}},
)
