"""What a GGUF file says of its model, in the words of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.end_tokens import gguf_end_tokens, in_config
from sparseact.models.families import GGUF, LISTED, family_where
from sparseact.models.rope import constant_factors
from sparseact.models.sources.gguf import GGUFTensors
from sparseact.models.tensor_names import Naming

_SCALINGS = ("none", "linear", "yarn", "longrope")
"""Types of scaling of a rotation that GGUF files have."""


def gguf_config(file: GGUFTensors) -> dict[str, Any]:
    """A config in transformers' words from the metadata.

    Raises:
        UnsupportedModelError: an architecture that the engine does not run, or one with experts.
        InputError: the file has no embedding.
    """
    model_type, kind = _family(file)
    about = {key.removeprefix(f"{kind.architecture}."): value for key, value in file.metadata.items()}
    if about.get("expert_count"):
        raise UnsupportedModelError(f"{file.path}: the engine does not run mixtures of experts; {LISTED}")
    if "token_embd.weight" not in file.tensors:
        raise InputError(f"{file.path}: the tensor token_embd.weight is missing; this GGUF file is no language model")
    layers, hidden, heads = (
        _size(file, f"{kind.architecture}.{key}") for key in ("block_count", "embedding_length", "attention.head_count")
    )
    head_dim = about.get("attention.key_length", hidden // heads)
    config = {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": about.get("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": about.get("attention.head_count_kv"),
        "head_dim": head_dim,
        "max_position_embeddings": about.get("context_length"),
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "rms_norm_eps": about.get("attention.layer_norm_rms_epsilon"),
        "layer_norm_eps": about.get("attention.layer_norm_epsilon"),
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": in_config(gguf_end_tokens(file.metadata)),
        "pad_token_id": file.metadata.get("tokenizer.ggml.padding_token_id"),
        "attention_bias": any(f"blk.0.attn_{name}.bias" in file.tensors for name in ("q", "k", "v", "output")),
        "mlp_bias": any(f"blk.0.ffn_{name}.bias" in file.tensors for name in ("gate", "up", "down")),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in file.tensors,
        "attn_logit_softcapping": about.get("attn_logit_softcapping"),
        "final_logit_softcapping": about.get("final_logit_softcapping"),
        "sliding_window": about.get("attention.sliding_window"),
        **_slides(about.get("attention.sliding_window_pattern")),
        "rope_parameters": _rope_parameters(file, about, head_dim),
    }
    return {name: value for name, value in (config | kind.config(about, config)).items() if value is not None}


def _family(file: GGUFTensors) -> tuple[str, GGUF]:
    """Transformers' name of the file's architecture, and what is particular to it."""
    name = file.metadata.get("general.architecture")
    family = family_where(lambda family: family.gguf is not None and family.gguf.architecture == name)
    if family is None or family.gguf is None:
        raise UnsupportedModelError(
            f"{file.path}: the engine does not run GGUF files of architecture {name!r}; {LISTED}"
        )
    return family.model_type, family.gguf


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
    factor = about.get("rope.scaling.factor") or about.get("rope.scale_linear")  # the second in old files
    kind = about.get("rope.scaling.type", "linear")
    if kind not in _SCALINGS:
        raise UnsupportedModelError(
            f"{file.path}: the engine has no rotary embedding of type {kind!r}; it has {', '.join(_SCALINGS)}"
        )
    scaled = kind not in {"none", "linear"} or (kind == "linear" and factor)
    parameters = {"rope_theta": about.get("rope.freq_base", 1e4)}
    parameters |= {"rope_type": kind, "factor": factor} if scaled else {"rope_type": "default"}
    parameters |= _long_texts(file, about, kind)
    parameters["partial_rotary_factor"] = about.get("rope.dimension_count", head_dim) / head_dim
    if "rope_freqs.weight" in file.tensors and kind in {"none", "linear"}:
        divisors = file.read_row("rope_freqs.weight") * np.float32(parameters.get("factor", 1))
        parameters |= constant_factors(divisors.tolist(), about.get("context_length", 1))
    return parameters


def _long_texts(file: GGUFTensors, about: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What the scalings for texts longer than those of the first training need."""
    said: dict[str, Any] = {}
    if kind == "yarn":
        said = {beta: about.get(f"rope.scaling.yarn_{beta}") for beta in ("beta_fast", "beta_slow")}
        if logarithm := about.get("rope.scaling.yarn_log_multiplier"):
            said |= {"mscale": 1.0, "mscale_all_dim": logarithm}
        if (attention := about.get("rope.scaling.attn_factor", 1.0)) != 1:
            raise UnsupportedModelError(f"{file.path}: the engine has no yarn with an attn_factor of {attention:g}")
    elif "rope_factors_short.weight" in file.tensors:
        kinds = ("short", "long")
        said = {f"{kind}_factor": file.read_row(f"rope_factors_{kind}.weight").tolist() for kind in kinds}
        said |= {"rope_type": "longrope", "attention_factor": about.get("rope.scaling.attn_factor", 1.0)}
    if said:
        context = about.get("rope.scaling.original_context_length", about.get("context_length"))
        said["original_max_position_embeddings"] = context
    return {name: value for name, value in said.items() if value is not None}


def gguf_naming(file: GGUFTensors) -> Naming:
    """GGUF's names. Norms of Gemma stand in it with their 1 added, GPT-2's linears transposed back."""
    one = "blk.0.attn_qkv.weight" in file.tensors
    modules = {
        "embed": "token_embd",
        "positions": "position_embd",
        "norm": "output_norm",
        "head": "output",
        **{name: "blk.{}.attn_qkv" if one else f"blk.{{}}.attn_{name}" for name in "qkv"},
        "o": "blk.{}.attn_output",
        "gate": "blk.{}.ffn_gate" if "blk.0.ffn_gate.weight" in file.tensors else "blk.{}.ffn_up",  # in it, if gated
        "up": "blk.{}.ffn_up",
        "down": "blk.{}.ffn_down",
        "attention_norm": "blk.{}.attn_norm",
        "mlp_norm": "blk.{}.ffn_norm",
        "post_attention_norm": "blk.{}.post_attention_norm",
        "post_mlp_norm": "blk.{}.post_ffw_norm",
        "q_norm": "blk.{}.attn_q_norm",
        "k_norm": "blk.{}.attn_k_norm",
        "inner_attention_norm": "blk.{}.attn_sub_norm",
        "inner_mlp_norm": "blk.{}.ffn_sub_norm",
    }
    kind = _family(file)[1]
    return Naming({**modules, **kind.names}, paired=kind.paired)
