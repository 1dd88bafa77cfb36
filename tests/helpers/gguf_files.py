"""GGUF files as llama.cpp's converter makes them of a model of transformers, for tests of what reads them."""

import math

import gguf
import numpy as np
import torch

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
    "phi": gguf.MODEL_ARCH.PHI2,
    "gpt2": gguf.MODEL_ARCH.GPT2,
}
"""Families of `sparseact.testing` that have an architecture of GGUF's."""


def write_gguf(path, model, family, quantised="Q8_0", metadata=(), tensors=()):
    """What llama.cpp's converter makes of a model; the model gets the numbers that the file holds.

    Args:
        path: the file.
        model: a tiny model of `family`.
        family: one of `ARCHITECTURES`.
        quantised: ggml's type of its linears.
        metadata: further keys; a value of None leaves one out.
        tensors: further tensors by name.
    """
    kind, config = ARCHITECTURES[family], model.config
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[kind])
    _add_metadata(writer, config, family)
    for key, value in dict(metadata).items():
        writer.kv_data[0].pop(key, None)
        if value is not None:
            _add(writer, key, value)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        module, _, suffix = name.rpartition(".")
        transposed = family == "gpt2" and tensor.ndim == 2 and ".h." in name
        values = np.ascontiguousarray((tensor.T if transposed else tensor).numpy()).copy()
        raw = gguf.GGMLQuantizationType[quantised if values.ndim == 2 and values.shape[1] % 32 == 0 else "F32"]
        held = gguf.quants.dequantize(gguf.quants.quantize(values, raw), raw).reshape(values.shape)
        tensor.copy_(torch.as_tensor(held.T if transposed else held))
        stored = "output" if module == "lm_head" else names.get_name(module)
        packed = gguf.quants.quantize(_converted(name, values, config, family), raw)
        writer.add_tensor(f"{stored}.{suffix}", packed, raw_dtype=raw)
    if config.to_dict().get("rope_parameters", {}).get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(config))
    for name, values in dict(tensors).items():
        writer.add_tensor(name, np.asarray(values, np.float32))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer, key, value):
    add = {str: writer.add_string, float: writer.add_float32, bool: writer.add_bool, list: writer.add_array}
    add.get(type(value), writer.add_uint32)(key, value)


def _add_metadata(writer, config, family):
    heads = config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or config.n_inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", heads))
    writer.add_layer_norm_eps(1e-5)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_token_list(["token", "list", "to", "skip"] * 16)
    writer.add_token_scores([0.0] * 5000)
    if config.bos_token_id is not None:
        writer.add_bos_token_id(config.bos_token_id)
    if config.eos_token_id is not None:
        writer.add_eos_token_id(config.eos_token_id)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if family == "phi":
        writer.add_rope_dimension_count(config.hidden_size // heads // 2)
    if family.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
    if family == "gemma3":
        slides = [kind == "sliding_attention" for kind in config.layer_types]
        writer.add_array("gemma3.attention.sliding_window_pattern", slides)
    if family == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    _add_rotation(writer, config)


def _add_rotation(writer, config):
    if rope := config.to_dict().get("rope_parameters"):
        if sliding := rope.get("sliding_attention"):
            writer.add_float32(f"{writer.arch}.rope.freq_base_swa", sliding["rope_theta"])
        rope = rope.get("full_attention", rope)
        writer.add_rope_freq_base(rope["rope_theta"])
        if rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])


def _converted(name, values, config, family):
    """What llama.cpp's converter does to a tensor besides its name and its type."""
    if (family == "llama" and "q_proj" in name) or (family == "llama" and "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
    if family.startswith("gemma") and "norm" in name:
        return values + 1
    return values


def _llama3_factors(config):
    rope, dim = config.rope_parameters, getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    dim = int(dim * rope.get("partial_rotary_factor", 1))
    context = rope["original_max_position_embeddings"]
    factors = []
    for i in range(0, dim, 2):
        length = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        if length < context / rope["high_freq_factor"]:
            factors.append(1.0)
        elif length > context / rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            smooth = (context / length - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)
