"""What the engine reads of a config: parity with transformers' own reading, and refusals of one line."""

import dataclasses

import numpy as np
import pytest
import transformers

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.architecture import Activation, Norm
from sparseact.models.families import engine_types, read_config
from sparseact.testing import tiny

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 3,
}
OLD = {
    "llama": {"model_type": "llama", "rope_theta": 5e5, "hidden_act": "silu"},
    "llama3": {
        "model_type": "llama",
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        "tie_word_embeddings": True,
    },
    "linear": {"model_type": "llama", "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "mistral": {"model_type": "mistral", "sliding_window": 9, "rope_theta": 1e4},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1e6, "use_sliding_window": False, "sliding_window": 9},
    "qwen2-sliding": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 3},
    "qwen3": {"model_type": "qwen3", "rope_theta": 1e6, "head_dim": 16, "attention_bias": False},
    "gemma2": {"model_type": "gemma2", "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 9},
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 9,
        "sliding_window_pattern": 6,
    },
    "phi": {"model_type": "phi", "partial_rotary_factor": 0.5, "rope_theta": 1e4, "layer_norm_eps": 1e-5},
    "opt": {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32, "activation_function": "relu"},
}


@pytest.mark.parametrize("name", OLD)
def test_a_config_of_transformers_4_means_what_transformers_5_makes_of_it(name):
    old = SIZES | OLD[name]
    new = transformers.AutoConfig.for_model(**old).to_dict()
    ours, theirs = read_config(old, "old"), read_config(new, "new")
    assert ours == theirs
    assert ours.layers == 7
    assert ours.first_token == 3
    assert ours.neurons == 48


@pytest.mark.parametrize("token", [None, -1, 10**6, [1, 2], "<s>"])
def test_a_first_token_outside_the_vocabulary_counts_as_none(token):
    assert read_config(SIZES | {"model_type": "llama", "bos_token_id": token}, "config.json").first_token == 0


def test_fields_of_gemma3():
    architecture = read_config(tiny.FAMILIES["gemma3"]().to_dict(), "gemma3")
    assert architecture.windows == (4, 0, 4)
    assert architecture.layer_frequencies[0] == architecture.layer_frequencies[2] != architecture.layer_frequencies[1]
    assert architecture.embedding_scale == 32**0.5
    assert architecture.attention_scale == 16**-0.5
    assert (architecture.norm, architecture.activation) == (Norm.RMS, Activation.GELU_TANH)
    assert architecture.post_norms
    assert architecture.qk_norm
    assert not architecture.parallel


def test_everything_in_an_architecture_is_a_plain_number():
    for family in ("llama", "gemma2", "gemma3", "phi", "gpt2"):
        for field in dataclasses.astuple(read_config(tiny.FAMILIES[family]().to_dict(), family)):
            assert isinstance(field, int | float | str | tuple)


@pytest.mark.parametrize("scaling", ["llama3", "linear", "gemma3"])
def test_rotations_equal_those_of_transformers(scaling):
    config = transformers.AutoConfig.for_model(**SIZES | OLD[scaling])
    architecture = read_config(config.to_dict(), "")
    cos, sin = architecture.rotations(60, 40)
    model = transformers.AutoModelForCausalLM.from_config(config)
    import torch

    positions, x = torch.arange(60, 100)[None], torch.zeros(1, 1, 1)
    kinds = {0: "sliding_attention", 5: "full_attention"} if scaling == "gemma3" else {0: None}
    for layer, kind in kinds.items():
        expected = model.model.rotary_emb(x, positions, *([kind] if kind else []))
        half = architecture.rotary_dim // 2
        for ours, theirs in zip((cos, sin), expected, strict=True):
            found = ours[architecture.layer_frequencies[layer]]
            np.testing.assert_allclose(found, theirs[0, :, :half].numpy(), atol=1e-6)


@pytest.mark.parametrize("family", ["gpt-neox", "stablelm", "olmo2", "opt-post-norm"])
def test_other_families_are_refused_with_the_list_of_those_that_run(family):
    with pytest.raises(UnsupportedModelError) as refusal:
        read_config(tiny.FAMILIES[family]().to_dict(), "there/config.json")
    assert str(refusal.value).startswith("there/config.json: ")
    assert all(name in str(refusal.value) for name in engine_types() if name != "opt")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model_type": "mixtral"}, "'mixtral'"),
        ({"model_type": None}, "None"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        ({"hidden_act": "laplace"}, "'laplace'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"model_type": "phi", "qk_layernorm": True}, "qk_layernorm"),
        ({"model_type": "gpt2", "n_embd": 32, "scale_attn_by_inverse_layer_idx": True}, "inverse_layer"),
    ],
)
def test_what_the_engine_does_not_do_is_refused(changed, said):
    with pytest.raises(UnsupportedModelError, match=said):
        read_config(SIZES | {"model_type": "llama"} | changed, "config.json")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_attention_heads": "four"}, "'four'"),
        ({"num_key_value_heads": 3}, "not a multiple of 3"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": 7}, "damaged"),
        ({"head_dim": 7}, "rotate in pairs"),
        ({"model_type": "mistral", "sliding_window": -4}, "sliding_window is -4"),
        ({"model_type": "gemma3_text", "sliding_window": 4, "rope_parameters": {"rope_theta": 1.0}}, "lacks"),
    ],
)
def test_a_senseless_config_is_an_error_of_one_line(changed, said):
    with pytest.raises(InputError, match=said) as error:
        read_config(SIZES | {"model_type": "llama"} | changed, "config.json")
    assert "\n" not in str(error.value)
