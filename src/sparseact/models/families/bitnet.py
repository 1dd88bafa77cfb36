"""BitNet b1.58 with squared ReLU: a Llama that norms what the heads and the neurons put out.

The published folders hold packed ternary weights, or ask for rounding while the model runs, and are refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseact.models.architecture import Architecture
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming

_NAMES = llama.NAMES | {
    "inner_attention_norm": "layers.{}.self_attn.attn_sub_norm",
    "inner_mlp_norm": "layers.{}.mlp.ffn_sub_norm",
}


def _read(config: Config) -> Architecture:
    return replace(llama.read(replace(config, values={"hidden_act": "relu2", **config.values})), inner_norms=True)


def _from_gguf(metadata: Mapping[str, Any], _config: Mapping[str, Any]) -> dict[str, Any]:
    return {"hidden_act": metadata.get("hidden_act", "silu")}


FAMILY = Family(
    "bitnet",
    llama.LAYOUT,
    architecture=_read,
    naming=Naming(_NAMES),
    gguf=GGUF("bitnet", config=_from_gguf),
    tiny={"bitnet": {"num_key_value_heads": 1, "hidden_act": "relu2"}},
)
