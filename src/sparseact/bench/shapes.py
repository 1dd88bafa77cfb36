"""Shapes of models of 0.1 to 3 billion weights, in the words of their config.json, for speeds without their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sparseact.errors import unknown_name
from sparseact.models.architecture import Architecture
from sparseact.models.families import read_config


def _shape(
    others: Mapping[str, Any], hidden: int, neurons: int, layers: int, heads: int, kv_heads: int, head_dim: int = 0
) -> dict[str, Any]:
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": neurons,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim or hidden // heads,
        "tie_word_embeddings": True,
    }
    return sizes | dict(others)


_LLAMA: dict[str, Any] = {"model_type": "llama", "rms_norm_eps": 1e-5}
_SMOLLM2 = _LLAMA | {"vocab_size": 49152, "max_position_embeddings": 8192, "rope_theta": 1e5}
_LLAMA3 = _LLAMA | {
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 5e5,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
_TINYLLAMA = _LLAMA | {"vocab_size": 32000, "max_position_embeddings": 2048, "tie_word_embeddings": False}
_QWEN: dict[str, Any] = {"vocab_size": 151936, "max_position_embeddings": 32768, "rope_theta": 1e6}
_QWEN2 = _QWEN | {"model_type": "qwen2"}
_QWEN3 = _QWEN | {"model_type": "qwen3", "max_position_embeddings": 40960}
_GEMMA: dict[str, Any] = {
    "vocab_size": 262144,
    "max_position_embeddings": 32768,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
}
_GEMMA3 = _GEMMA | {"model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 6}
_GEMMA2 = _GEMMA | {
    "model_type": "gemma2",
    "hidden_activation": "gelu_pytorch_tanh",
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}

SHAPES: Final[dict[str, dict[str, Any]]] = {
    "smollm2-135m": _shape(_SMOLLM2, 576, 1536, 30, 9, 3),
    "smollm2-360m": _shape(_SMOLLM2, 960, 2560, 32, 15, 5),
    "smollm2-1.7b": _shape(_SMOLLM2, 2048, 8192, 24, 32, 32),
    "qwen2.5-0.5b": _shape(_QWEN2, 896, 4864, 24, 14, 2),
    "qwen2.5-1.5b": _shape(_QWEN2, 1536, 8960, 28, 12, 2),
    "qwen2.5-3b": _shape(_QWEN2, 2048, 11008, 36, 16, 2),
    "qwen3-0.6b": _shape(_QWEN3, 1024, 3072, 28, 16, 8, 128),
    "qwen3-1.7b": _shape(_QWEN3, 2048, 6144, 28, 16, 8, 128),
    "llama3.2-1b": _shape(_LLAMA3, 2048, 8192, 16, 32, 8, 64),
    "llama3.2-3b": _shape(_LLAMA3, 3072, 8192, 28, 24, 8, 128),
    "tinyllama-1.1b": _shape(_TINYLLAMA, 2048, 5632, 22, 32, 4),
    "gemma2-2b": _shape(_GEMMA2, 2304, 9216, 26, 8, 4, 256),
    "gemma3-1b": _shape(_GEMMA3, 1152, 6912, 26, 4, 1, 256),
}
"""By name: what decides the speed. The biases of Qwen 2.5's q, k and v, a thousandth of its bytes, are left out."""


def shape_of(name: str) -> Architecture:
    """The architecture of a shape.

    Raises:
        InputError: there is no shape of this name.
    """
    if name not in SHAPES:
        raise unknown_name("shape: unknown shape", name, SHAPES)
    return read_config(SHAPES[name], name)
