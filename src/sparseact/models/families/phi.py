"""Phi 1, 1.5 and 2: attention and an ungated MLP side by side; half of a head rotates."""

from dataclasses import replace

from sparseact.models.architecture import Architecture, Norm
from sparseact.models.families import llama
from sparseact.models.families.base import GGUF, Family, Layout
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming

_NAMES = llama.NAMES | {
    "norm": "final_layernorm",
    "o": "layers.{}.self_attn.dense",
    "gate": "layers.{}.mlp.fc1",
    "down": "layers.{}.mlp.fc2",
}


def _read(config: Config) -> Architecture:
    config.refuse("qk_layernorm")
    halved = replace(config, values={"partial_rotary_factor": 0.5, **config.values})
    return Architecture(
        **config.sizes() | halved.rotation(),
        neurons=config.size("intermediate_size"),
        norm=Norm.LAYER,
        norm_epsilon=config.number("layer_norm_eps", 1e-5),
        activation=config.activation("hidden_act", "gelu_new"),
        gated=False,
        tied=bool(config.get("tie_word_embeddings", False)),
        windows=(0,) * config.size("num_hidden_layers"),
        parallel=True,
    )


FAMILY = Family(
    "phi",
    Layout("Phi", ("mlp.fc1",), "mlp.fc2", llama.QKV, "self_attn.dense"),
    architecture=_read,
    naming=Naming(_NAMES),
    gguf=GGUF("phi2"),
    tiny={"phi": {}},
)
