"""What a GGUF file says of its model, in the words of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.architecture import Architecture
from sparseact.models.sources.gguf import GGUFTensors
from sparseact.models.tensor_names import Naming

FAMILIES = {
    "llama": "llama",  # and Mistral, whose files say llama
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi2": "phi",
    "gpt2": "gpt2",
}
"""GGUF's architectures that the engine runs, and transformers' name of each."""

# Gemma's largest models scale queries by hidden / heads, all others by the size of a head; the files do not say.
_SCALED_BY_HIDDEN = {("gemma2", 46), ("gemma3", 62)}


def gguf_config(file: GGUFTensors) -> dict[str, Any]:
    """A config in transformers' words from the metadata.

    Raises:
        UnsupportedModelError: an architecture that the engine does not run, or one with experts.
        InputError: the file has no embedding.
    """
    family = file.metadata.get("general.architecture")
    if family not in FAMILIES:
        raise UnsupportedModelError(
            f"{file.path}: the engine does not run GGUF files of architecture {family!r}; it runs {', '.join(FAMILIES)}"
        )
    about = {key.removeprefix(f"{family}."): value for key, value in file.metadata.items()}
    if about.get("expert_count"):
        raise UnsupportedModelError(
            f"{file.path}: the engine does not run mixtures of experts; it runs {', '.join(FAMILIES)}"
        )
    if "token_embd.weight" not in file.tensors:
        raise InputError(f"{file.path}: the tensor token_embd.weight is missing; this GGUF file is no language model")
    layers, hidden, heads = (
        _size(file, f"{family}.{key}") for key in ("block_count", "embedding_length", "attention.head_count")
    )
    head_dim = about.get("attention.key_length", hidden // heads)
    by_hidden = (family, layers) in _SCALED_BY_HIDDEN
    config = {
        "model_type": FAMILIES[family],
        "num_hidden_layers": layers,
        "n_layer": layers,
        "hidden_size": hidden,
        "n_embd": hidden,
        "intermediate_size": about.get("feed_forward_length"),
        "n_inner": about.get("feed_forward_length"),
        "num_attention_heads": heads,
        "n_head": heads,
        "num_key_value_heads": about.get("attention.head_count_kv"),
        "head_dim": head_dim,
        "max_position_embeddings": about.get("context_length"),
        "n_positions": about.get("context_length"),
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "rms_norm_eps": about.get("attention.layer_norm_rms_epsilon"),
        "layer_norm_eps": about.get("attention.layer_norm_epsilon"),
        "layer_norm_epsilon": about.get("attention.layer_norm_epsilon"),
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "query_pre_attn_scalar": hidden / heads if by_hidden else head_dim,
        "attn_logit_softcapping": about.get("attn_logit_softcapping"),
        "final_logit_softcapping": about.get("final_logit_softcapping"),
        "sliding_window": about.get("attention.sliding_window"),
        **_slides(about.get("attention.sliding_window_pattern")),
        "rope_parameters": _rope_parameters(file, about, head_dim),
    }
    return {name: value for name, value in config.items() if value is not None}


def _size(file: GGUFTensors, key: str) -> int:
    value = file.metadata.get(key)
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{file.path}: {key} is {value!r}; it must be a positive integer")
    return value


def _slides(pattern: Any) -> dict[str, Any]:
    """Which layers slide: newer files list them all, others have a period or leave it to the family."""
    if isinstance(pattern, list):
        return {"layer_types": ["sliding_attention" if slides else "full_attention" for slides in pattern]}
    return {"sliding_window_pattern": pattern}


def _rope_parameters(file: GGUFTensors, about: Mapping[str, Any], head_dim: Any) -> dict[str, Any]:
    gemma3 = file.metadata["general.architecture"] == "gemma3"
    kind = about.get("rope.scaling.type", "none")
    parameters = {
        "rope_theta": about.get("rope.freq_base", 1e6 if gemma3 else 1e4),
        "rope_type": "default" if kind == "none" else kind,
        "factor": about.get("rope.scaling.factor"),
    }
    if rotating := about.get("rope.dimension_count"):
        parameters["partial_rotary_factor"] = rotating / head_dim
    if "rope_freqs.weight" in file.tensors:
        parameters |= {"rope_type": "factors", "factors": file.read_row("rope_freqs.weight")}
    if not gemma3:
        return parameters
    local = {"rope_theta": about.get("rope.freq_base_swa", 1e4)}
    return {"full_attention": parameters, "sliding_attention": local}


def gguf_naming(file: GGUFTensors, architecture: Architecture) -> Naming:
    """GGUF's names. Norms of Gemma stand in it with their 1 added, GPT-2's linears transposed back."""
    one = "blk.0.attn_qkv.weight" in file.tensors
    modules = {
        "embed": "token_embd",
        "positions": "position_embd",
        "norm": "output_norm",
        "head": "output",
        **{name: "blk.{}.attn_qkv" if one else f"blk.{{}}.attn_{name}" for name in "qkv"},
        "o": "blk.{}.attn_output",
        "gate": "blk.{}.ffn_gate" if architecture.gated else "blk.{}.ffn_up",
        "up": "blk.{}.ffn_up",
        "down": "blk.{}.ffn_down",
        "attention_norm": "blk.{}.attn_norm",
        "mlp_norm": "blk.{}.ffn_norm",
        "post_attention_norm": "blk.{}.post_attention_norm",
        "post_mlp_norm": "blk.{}.post_ffw_norm",
        "q_norm": "blk.{}.attn_q_norm",
        "k_norm": "blk.{}.attn_k_norm",
    }
    return Naming(modules, paired=file.metadata["general.architecture"] == "llama")
