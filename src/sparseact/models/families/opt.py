"""OPT: learned positions, of which the first two are unused, and ReLU neurons."""

from sparseact.errors import UnsupportedModelError
from sparseact.models.architecture import Architecture, Norm
from sparseact.models.families import llama
from sparseact.models.families.base import TINY, Family, Layout
from sparseact.models.families.config import LISTED, Config
from sparseact.models.tensor_names import Naming

_NAMES = llama.NAMES | {
    "positions": "embed_positions",
    "norm": "final_layer_norm",
    "o": "layers.{}.self_attn.out_proj",
    "gate": "layers.{}.fc1",
    "down": "layers.{}.fc2",
    "attention_norm": "layers.{}.self_attn_layer_norm",
    "mlp_norm": "layers.{}.final_layer_norm",
}


def _read(config: Config) -> Architecture:
    config.refuse("_remove_final_layer_norm")
    if not config.get("do_layer_norm_before", True) or config.get("word_embed_proj_dim") != config.get("hidden_size"):
        raise UnsupportedModelError(
            f"{config.where}: the engine does not run OPT with norms after the blocks or projected embeddings "
            f"(OPT-350m); {LISTED}"
        )
    return Architecture(
        **config.sizes(),
        neurons=config.size("ffn_dim"),
        norm=Norm.LAYER,
        norm_epsilon=1e-5,
        activation=config.activation("activation_function", "relu"),
        gated=False,
        tied=bool(config.get("tie_word_embeddings", True)),
        windows=(0,) * config.size("num_hidden_layers"),
    )


_TINY = {"ffn_dim": TINY["intermediate_size"], "init_std": TINY["initializer_range"]}

FAMILY = Family(
    "opt",
    Layout("OPT", ("fc1",), "fc2", llama.QKV, "self_attn.out_proj"),
    architecture=_read,
    naming=Naming(_NAMES, unused_positions=2),
    tiny={
        "opt": _TINY | {"word_embed_proj_dim": TINY["hidden_size"]},
        "opt-post-norm": _TINY | {"word_embed_proj_dim": 16, "do_layer_norm_before": False},
    },
)
