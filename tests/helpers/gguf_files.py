"""GGUF files as llama.cpp's converter makes them of a model of transformers, for tests of what reads them."""

import math

import gguf
import numpy as np
import torch

_ARCH = gguf.MODEL_ARCH
ARCHITECTURES = {
    "llama": _ARCH.LLAMA,
    "qwen2": _ARCH.QWEN2,
    "qwen3": _ARCH.QWEN3,
    "gemma2": _ARCH.GEMMA2,
    "gemma3": _ARCH.GEMMA3,
    "phi": _ARCH.PHI2,
    "gpt2": _ARCH.GPT2,
    "phi3": _ARCH.PHI3,
    "phi4-mini": _ARCH.PHI3,
    "nemotron": _ARCH.NEMOTRON,
    "arcee": _ARCH.ARCEE,
    "bitnet": _ARCH.BITNET,
    "smollm3": _ARCH.SMOLLM3,
    "granite": _ARCH.GRANITE,
    "granite4": _ARCH.GRANITE,
    "gemma": _ARCH.GEMMA,
    "ministral3": _ARCH.MISTRAL3,
    "stablelm": _ARCH.STABLELM,
    "stablelm-parallel": _ARCH.STABLELM,
    "ernie4_5": _ARCH.ERNIE4_5,
    "internlm3": _ARCH.LLAMA,
    "seed_oss": _ARCH.SEED_OSS,
    "olmo2": _ARCH.OLMO2,
    "olmo3": _ARCH.OLMO2,
    "exaone4": _ARCH.EXAONE4,
    "exaone4-sliding": _ARCH.EXAONE4,
    "hunyuan": _ARCH.HUNYUAN_DENSE,
    "gpt-neox": _ARCH.GPTNEOX,
    "gpt-neox-sequential": _ARCH.GPTNEOX,
    "cohere": _ARCH.COMMAND_R,
    "cohere2": _ARCH.COHERE2,
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
        for stored, part in _parts(module, _converted(name, values, config, family), names):
            writer.add_tensor(f"{stored}.{suffix}", gguf.quants.quantize(part, raw), raw_dtype=raw)
    rope = config.to_dict().get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(config))
    for length in ("short", "long") if "short_factor" in rope else ():
        writer.add_tensor(f"rope_factors_{length}.weight", np.array(rope[f"{length}_factor"], np.float32))
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
    writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", getattr(config, "norm_eps", 1e-5)))
    writer.add_layer_norm_rms_eps(getattr(config, "rms_norm_eps", 1e-6))
    writer.add_token_list(["token", "list", "to", "skip"] * 16)
    writer.add_token_scores([0.0] * 5000)
    if config.bos_token_id is not None:
        writer.add_bos_token_id(config.bos_token_id)
    if config.eos_token_id is not None:
        writer.add_eos_token_id(config.eos_token_id)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if share := getattr(
        config, "rotary_pct", (config.to_dict().get("rope_parameters") or {}).get("partial_rotary_factor")
    ):
        writer.add_rope_dimension_count(int(share * config.hidden_size) // heads)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if family in {"gemma3", "olmo3", "exaone4-sliding"}:
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    _add_switches(writer, config, family)
    _add_rotation(writer, config)


def _add_switches(writer, config, family):
    if family == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if family.startswith("granite"):
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if family.startswith("cohere"):
        writer.add_logit_scale(config.logit_scale)
    if family.startswith("gpt-neox"):
        writer.add_parallel_residual(config.use_parallel_residual)
    if family == "bitnet":
        writer.add_string("bitnet.hidden_act", config.hidden_act)
    if family == "ministral3":
        writer.add_rope_scaling_yarn_log_mul(config.rope_parameters["mscale_all_dim"])
        writer.add_attn_temperature_scale(config.rope_parameters["llama_4_scaling_beta"])


def _add_rotation(writer, config):
    rope = config.to_dict().get("rope_parameters")
    if not rope:
        return
    if sliding := rope.get("sliding_attention"):
        writer.add_float32(f"{writer.arch}.rope.freq_base_swa", sliding["rope_theta"])
    rope = rope.get("full_attention", rope)
    base, dim = rope["rope_theta"], getattr(config, "head_dim", None)
    writer.add_rope_freq_base(base * rope["alpha"] ** (dim / (dim - 2)) if "alpha" in rope else base)
    if rope["rope_type"] in {"linear", "yarn"}:
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))


def _parts(module, values, names):
    """GGUF's names for a module, and what each has of it."""
    if module == "lm_head":
        return [("output", values)]
    block = f"blk.{module.split('.')[2]}" if module.startswith("model.layers.") else ""
    if module.endswith("shared_mlp.input_linear"):
        return zip((f"{block}.ffn_gate", f"{block}.ffn_up"), np.split(values, 2), strict=True)
    if module.endswith("shared_mlp.output_linear"):
        return [(f"{block}.ffn_down", values)]
    if "_sub_norm" in module:  # gguf knows those of the first BitNet only
        return [(f"{block}.{module.rpartition('.')[2]}", values)]
    return [(names.get_name(module), values)]


PERMUTED = {"llama", "arcee", "smollm3", "granite", "granite4", "ministral3", "internlm3"}
"""Families whose converter is made from that of Llama: rows of q and k go from halves to pairs."""


def _converted(name, values, config, family):
    """What llama.cpp's converter does to a tensor besides its name and its type."""
    if family in PERMUTED and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
    if "query_key_value" in name:  # from head by head to all queries, all keys, all values
        by_head = values.reshape(config.num_attention_heads, 3, -1, *values.shape[1:])
        return by_head.swapaxes(0, 1).reshape(values.shape)
    if family.startswith(("gemma", "nemotron")) and name.endswith("norm.weight"):
        return values + 1
    return values


def _llama3_factors(config):
    rope, dim = (
        config.rope_parameters,
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    )
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
