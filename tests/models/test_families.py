"""What the engine reads of a config: parity with transformers' own reading, and refusals of one line."""

import dataclasses
import random
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from sparseact.engine.engine import Engine
from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.architecture import Activation, Norm
from sparseact.models.families import BUILTIN, engine_types, known_families, read_config
from sparseact.policies import TEAL
from sparseact.sites import LAYOUTS, find_sites
from sparseact.testing import float64_model, tiny, tiny_model, tiny_tokenizer
from sparseact.utils import registry

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
    positions, x = torch.arange(60, 100)[None], torch.zeros(1, 1, 1)
    kinds = {0: "sliding_attention", 5: "full_attention"} if scaling == "gemma3" else {0: None}
    for layer, kind in kinds.items():
        expected = model.model.rotary_emb(x, positions, *([kind] if kind else []))
        half = architecture.rotary_dim // 2
        for ours, theirs in zip((cos, sin), expected, strict=True):
            found = ours[architecture.layer_frequencies[layer]]
            np.testing.assert_allclose(found, theirs[0, :, :half].numpy(), atol=1e-6)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 4.0}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [2.0, 4.0, 8.0, 16.0],
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        (YARN, 128),
        (YARN | {"factor": 1.0}, 128),
        (YARN | {"attention_factor": 1.5}, 128),
        (YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}, 128),
        (YARN | {"truncate": False}, 128),
        (YARN | {"beta_fast": 1e6, "beta_slow": 1e-6}, 128),
        (LONGROPE, 32),
        (LONGROPE | {"attention_factor": 1.1}, 32),
        (LONGROPE | {"long_factor": LONGROPE["short_factor"]}, 128),
        ({"rope_type": "dynamic", "factor": 4.0}, 128),
    ],
)
def test_scalings_equal_those_of_transformers_up_to_where_they_change(rope, context):
    config = transformers.AutoConfig.for_model(
        **SIZES, model_type="llama", rope_parameters=rope | {"rope_theta": 100.0}
    )
    architecture = read_config(config.to_dict(), "")
    model = transformers.AutoModelForCausalLM.from_config(config)
    expected = model.model.rotary_emb(torch.zeros(1, 1, 1), torch.arange(context)[None])
    assert architecture.context == context
    assert (str(context) in architecture.why_context) == (context < 128)
    for ours, theirs in zip(architecture.rotations(0, context), expected, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0, :, :4].numpy(), atol=2e-6)


@pytest.mark.parametrize("family", ["apertus", "opt-post-norm"])
def test_other_families_are_refused_in_a_line_that_can_be_read(family):
    with pytest.raises(UnsupportedModelError) as refusal:
        read_config(tiny.FAMILIES[family]().to_dict(), "there/config.json")
    assert str(refusal.value).startswith("there/config.json: ")
    assert "docs/families.md" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model_type": "mixtral"}, "'mixtral'"),
        ({"model_type": None}, "None"),
        ({"rope_scaling": {"rope_type": "xdrope", "factor": 4.0}}, "'xdrope'"),
        ({"rope_scaling": {"type": "proportional", "factor": 4.0}}, "'proportional'"),
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


# The families themselves


def test_a_family_is_known_without_torch():
    script = (
        "import sys, sparseact.models.families as f; print(len(f.BUILTIN), {'torch', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(BUILTIN)} set()\n"


@pytest.mark.parametrize("name", BUILTIN)
def test_a_family_is_whole(name):
    family = BUILTIN[name]
    assert family.tiny
    assert {*family.layouts} <= {*LAYOUTS}
    assert family.architecture or not family.gguf
    assert family.architecture or family.engine_lacks
    assert all(tiny.FAMILIES[each]().model_type == family.model_type for each in family.tiny)


def test_the_docs_have_a_row_for_every_layout():
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("|")]
    units = {tuple(row[place].strip(" `") for place in (2, 4)) for row in rows[2:]}
    assert units == {
        (layout.mlp_out if layout.mlp_in else "none", layout.attention_out if layout.has_heads else "none")
        for layout in LAYOUTS
    }


# A family of another package: the one of the examples.

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
IDS = np.random.default_rng(0).integers(0, 64, 20).tolist()
TEXT = "".join(random.Random(0).choices("abcdefghijklmnop ABCDEFG", k=2000))


@pytest.fixture
def other_package(monkeypatch, tmp_path):
    """A package on the path, and what adds its entry point."""
    example = (ROOT / "examples" / "add_a_family.py").read_text(encoding="utf-8")
    (tmp_path / "starcoder2_of_the_examples.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    points = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])

    def publish(name="starcoder2", value="starcoder2_of_the_examples:FAMILY"):
        points.append(EntryPoint(name, value, "sparseact.families"))

    yield publish
    sys.modules.pop("starcoder2_of_the_examples", None)


def test_without_its_package_the_family_is_not_known(other_package):
    with pytest.raises(InputError, match="unknown family 'starcoder2'"):
        tiny_model("starcoder2")
    other_package()
    model = tiny_model("starcoder2")
    assert model.config.hidden_size == 32


def test_a_family_of_another_package_has_sites(other_package):
    other_package()
    mlp, heads, *_ = find_sites(tiny_model("starcoder2"))
    assert (mlp.module, mlp.units, mlp.unit_bytes) == ("model.layers.0.mlp.c_proj", 48, 2 * 32 * 4)
    assert (heads.module, heads.units) == ("model.layers.0.self_attn.o_proj", 4)


def test_the_engine_runs_a_family_of_another_package_as_transformers_does(other_package, tmp_path):
    other_package()
    model = tiny_model("starcoder2")
    assert "starcoder2" in engine_types()
    model.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    for source in (model, tmp_path / "saved"):
        with Engine.from_model(source, dtype="f32", threads=1) as engine:
            found = np.stack([engine.step(token) for token in IDS])
            np.testing.assert_allclose(found, expected, atol=1e-4)
            engine.reset()
            np.testing.assert_allclose(engine.prefill(IDS), expected[-1], atol=1e-4)


def test_a_recipe_of_another_packages_family_runs_in_the_engine_as_on_the_model(other_package):
    other_package()
    model = tiny_model("starcoder2")
    recipe = TEAL(0.5).calibrate(model, tiny_tokenizer(), TEXT)
    recipe = dataclasses.replace(recipe, meta=recipe.meta | {"levels": {}})  # columns are gathered, not streamed
    masked, cache = [], None
    with torch.no_grad(), recipe(model):
        for token in IDS:
            out = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            masked.append(out.logits[0, -1].numpy())
    with torch.no_grad():
        dense = model(torch.tensor([IDS])).logits[0].numpy()
    with Engine.from_model(model, recipe, dtype="f32", threads=1) as engine:
        found = np.stack([engine.step(token) for token in IDS])
        assert engine.density()["1.down"] < 0.8
    np.testing.assert_allclose(found, np.stack(masked), atol=1e-4)
    assert np.abs(found - dense).max() > 0.1


def test_an_entry_point_cannot_replace_a_built_in_family(other_package):
    other_package("llama")
    assert known_families()["llama"] is BUILTIN["llama"]


def test_a_family_that_cannot_be_imported_is_one_line_where_it_is_wanted(other_package):
    other_package("broken", "no_such_package:FAMILY")
    find_sites(tiny_model("llama"))  # the built-in ones need no other package
    with pytest.raises(InputError, match=r"families: broken \(no_such_package:FAMILY\) cannot be imported"):
        read_config(SIZES | {"model_type": "starcoder2"}, "config.json")


def test_what_is_no_family_is_one_line(other_package):
    other_package("module", "starcoder2_of_the_examples:read")
    with pytest.raises(InputError, match=r"module is a function, no sparseact\.models\.families\.base\.Family"):
        known_families()
    with pytest.raises(InputError, match="needs both `architecture` and `naming`"):
        dataclasses.replace(BUILTIN["llama"], naming=None)


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_exact_norms_are_those_of_the_family(family):
    """Gemma adds 1 to its norms' weights."""
    model = tiny_model(family)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    expected = model.model.norm(x)
    torch.testing.assert_close(float64_model(model).model.norm(x.double()).float(), expected)
