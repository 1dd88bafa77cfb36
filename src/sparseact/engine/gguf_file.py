"""GGUF files: their metadata in the words of transformers, their blocks taken over without loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparseact.engine.architecture import Architecture
from sparseact.engine.formats import BLOCK, Array, Bytes, Floats, Quantised
from sparseact.engine.gguf_header import TensorInfo, read_header
from sparseact.engine.places import Naming
from sparseact.errors import InputError, UnsupportedModelError

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


@dataclass(frozen=True)
class GGUFTensors:
    """A GGUF file of one model."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, path: Path) -> GGUFTensors:
        """Read the header.

        Raises:
            InputError: no such file, no GGUF file, or one that is cut short or damaged.
            UnsupportedModelError: numbers in a type that is not known.
        """
        header = read_header(path)
        for name, info in header.tensors.items():
            if info.offset + math.prod(info.shape[:-1]) * _row_bytes(path, name, info) > header.size:
                raise InputError(f"{path}: this GGUF file is cut short or damaged")
        return cls(path, header.metadata, header.tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: info.shape for name, info in self.tensors.items()}

    def read(self, name: str, first: int, last: int) -> Floats | Quantised:
        """Rows `first` to `last` of a tensor: its blocks for Q8_0, Q4_0, Q4_1 and Q5_0, else float32."""
        import gguf

        info = self.tensors[name]
        if len(info.shape) == 1:  # a row is a number
            return self.read_row(name)[first:last]
        width = _row_bytes(self.path, name, info)
        rows = np.fromfile(self.path, np.uint8, (last - first) * width, offset=info.offset + first * width)
        rows = rows.reshape(last - first, width)
        kind = gguf.GGMLQuantizationType(info.type)
        if kind.name in _BLOCKS:
            return _BLOCKS[kind.name](rows)
        return self._floats(rows, name, info)

    def read_row(self, name: str) -> Floats:
        """A tensor of one dimension."""
        info = self.tensors[name]
        raw = np.fromfile(self.path, np.uint8, _row_bytes(self.path, name, info), offset=info.offset)
        return self._floats(raw, name, info)

    def _floats(self, raw: Bytes, name: str, info: TensorInfo) -> Floats:
        import gguf

        kind = gguf.GGMLQuantizationType(info.type)
        try:
            return np.ascontiguousarray(gguf.quants.dequantize(raw, kind), dtype=np.float32)
        except NotImplementedError as error:
            raise UnsupportedModelError(f"{self.path}: {name} holds {kind.name}, which cannot be unpacked") from error


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
    layers, hidden, heads = (about.get(key) for key in ("block_count", "embedding_length", "attention.head_count"))
    head_dim = about.get("attention.key_length", hidden // heads if hidden and heads else None)
    by_hidden = (family, layers) in _SCALED_BY_HIDDEN
    return {
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
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "query_pre_attn_scalar": hidden / heads if by_hidden else head_dim,
        "attn_logit_softcapping": about.get("attn_logit_softcapping"),
        "final_logit_softcapping": about.get("final_logit_softcapping"),
        "sliding_window": about.get("attention.sliding_window"),
        "layer_types": _layer_types(about.get("attention.sliding_window_pattern")),
        "sliding_window_pattern": about.get("attention.sliding_window_pattern"),
        "rope_parameters": _rope_parameters(file, about, head_dim),
    }


def _layer_types(pattern: Any) -> list[str] | None:
    """Newer files list for each layer whether it slides; a number is a period, as transformers has it."""
    if not isinstance(pattern, list):
        return None
    return ["sliding_attention" if slides else "full_attention" for slides in pattern]


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


def _row_bytes(path: Path, name: str, info: TensorInfo) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        elements, size = GGML_QUANT_SIZES[GGMLQuantizationType(info.type)]
    except (KeyError, ValueError) as error:
        raise UnsupportedModelError(f"{path}: {name} holds numbers of ggml's type {info.type}, not known") from error
    if not info.shape or info.shape[-1] % elements:
        raise InputError(f"{path}: {name} {info.shape} is not made of blocks of {elements}; the file is damaged")
    return info.shape[-1] // elements * size


def _blocks(rows: Bytes, size: int) -> tuple[Bytes, Array]:
    """The blocks [outputs, blocks, size] of rows, and the float16 scale [outputs, blocks] that each starts with."""
    blocks = rows.reshape(len(rows), -1, size)
    return blocks, _halves(blocks, 0)


def _halves(blocks: Bytes, at: int) -> Array:
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0].astype(np.float16)


def _nibbles(packed: Bytes) -> Bytes:
    """Codes [outputs, blocks, 32] of 16 bytes each: first all low halves, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _q8_0(rows: Bytes) -> Quantised:
    blocks, scales = _blocks(rows, 34)
    return _quantised("q8", blocks[..., 2:].view(np.int8), scales)


def _q5_0(rows: Bytes) -> Quantised:
    """s * (n - 16) with n in 0..31 is q8 with small codes."""
    blocks, scales = _blocks(rows, 22)
    fifth = np.unpackbits(blocks[..., 2:6], axis=-1, bitorder="little")
    codes = (_nibbles(blocks[..., 6:]) | fifth << 4).astype(np.int8) - np.int8(16)
    return _quantised("q8", codes, scales)


def _q4_0(rows: Bytes) -> Quantised:
    blocks, scales = _blocks(rows, 18)
    return _quantised("q4", _nibbles(blocks[..., 2:]), scales)


def _q4_1(rows: Bytes) -> Quantised:
    blocks, scales = _blocks(rows, 20)
    return _quantised("q4m", _nibbles(blocks[..., 4:]), scales, _halves(blocks, 2))


def _quantised(name: str, codes: Array, scales: Array, mins: Array | None = None) -> Quantised:
    flat = np.ascontiguousarray(codes).reshape(len(codes), codes.shape[1] * BLOCK)
    return Quantised(name, flat.shape[1], flat, scales, mins)


_BLOCKS: dict[str, Callable[[Bytes], Quantised]] = {"Q8_0": _q8_0, "Q5_0": _q5_0, "Q4_0": _q4_0, "Q4_1": _q4_1}
"""ggml's types that `formats` has without loss."""
