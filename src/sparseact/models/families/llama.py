"""Llama, and what names itself so: SmolLM2, TinyLlama, Falcon 3. Most families begin as a Llama."""

from sparseact.models.architecture import Architecture, Norm
from sparseact.models.families.base import GGUF, Family, Layout
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
LAYOUT = Layout("Llama", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", QKV, "self_attn.o_proj")

NAMES = {
    "embed": "embed_tokens",
    "norm": "norm",
    "head": "lm_head",
    **{name: f"layers.{{}}.self_attn.{name}_proj" for name in "qkvo"},
    **{name: f"layers.{{}}.mlp.{name}_proj" for name in ("gate", "up", "down")},
    "attention_norm": "layers.{}.input_layernorm",
    "mlp_norm": "layers.{}.post_attention_layernorm",
    "q_norm": "layers.{}.self_attn.q_norm",
    "k_norm": "layers.{}.self_attn.k_norm",
}
NAMING = Naming(NAMES)


def read(config: Config) -> Architecture:
    """A Llama, from which a family that differs in a few fields is made by `dataclasses.replace`."""
    return Architecture(
        **config.sizes() | config.rotation(),
        neurons=config.size("intermediate_size"),
        norm=Norm.RMS,
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
        activation=config.activation("hidden_act", "silu"),
        gated=True,
        tied=bool(config.get("tie_word_embeddings", False)),
        windows=(0,) * config.size("num_hidden_layers"),
    )


FAMILY = Family(
    "llama",
    LAYOUT,
    architecture=read,
    naming=NAMING,
    gguf=GGUF("llama", paired=True),
    tiny={"llama": {"num_key_value_heads": 2}},
)
