"""Shapes, random weights in them, and recipes that switch off a given share: what bench --shape runs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparseact.bench import random_weights as module
from sparseact.bench.random_weights import check_memory, random_weights
from sparseact.bench.rules import RULES, rule_recipe
from sparseact.bench.shapes import SHAPES, shape_of
from sparseact.engine.engine import Engine
from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.formats import dequantise
from sparseact.models.weights import open_weights
from sparseact.testing import tiny_model

# As the models' cards give them, embedding included.
BILLIONS = {
    "smollm2-135m": 0.135,
    "smollm2-360m": 0.362,
    "smollm2-1.7b": 1.71,
    "qwen2.5-0.5b": 0.49,
    "qwen2.5-1.5b": 1.54,
    "qwen2.5-3b": 3.09,
    "qwen3-0.6b": 0.6,
    "qwen3-1.7b": 1.72,
    "llama3.2-1b": 1.24,
    "llama3.2-3b": 3.21,
    "tinyllama-1.1b": 1.1,
    "gemma2-2b": 2.61,
    "gemma3-1b": 1.0,
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_as_many_weights_as_its_model(name):
    weights = random_weights(shape_of(name), "q8")
    assert sum(math.prod(weights.shape(held)) for held in weights.names) / 1e9 == pytest.approx(
        BILLIONS[name], rel=0.01
    )


def test_the_shape_of_smollm2_is_that_of_the_model_that_we_have(smollm2):
    have, said = open_weights(smollm2[0]).architecture, shape_of("smollm2-135m")
    assert (have.shapes, have.frequencies, have.context) == (said.shapes, said.frequencies, said.context)
    assert said.norm_epsilon == pytest.approx(have.norm_epsilon)


def test_an_unknown_shape_is_said():
    with pytest.raises(InputError, match=r"^shape: unknown shape 'qwen3-0.6'. Did you mean qwen3-0.6b\?"):
        shape_of("qwen3-0.6")


@pytest.mark.parametrize(("dtype", "form"), [("q8", "q8"), ("q4", "q4m"), ("bf16", "q8")])
def test_random_weights_are_the_same_each_time_and_of_variance_one_over_inputs(dtype, form):
    weights = random_weights(shape_of("smollm2-135m"), dtype)
    whole = weights.read("3.down", 0, 100)
    assert whole.format == form
    np.testing.assert_array_equal(weights.read("3.down", 40, 60).codes, whole.codes[40:60])
    assert not np.array_equal(weights.read("4.down", 0, 100).codes, whole.codes)
    values = dequantise(whole)
    assert values.std() == pytest.approx(1536**-0.5, rel=0.02)
    assert abs(values.mean()) < 0.01 * values.std()
    assert weights.read("embed", 0, 5).format == "q8"
    assert weights.floats("3.mlp_norm").tolist() == [1.0] * 576


def test_random_weights_of_a_files_type_are_refused():
    with pytest.raises(InputError, match=r"^dtype: file is no type of random weights"):
        random_weights(shape_of("smollm2-135m"), "file")


def test_more_than_the_memory_holds_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(module, "available_bytes", lambda: 10 * 10**9)
    check_memory(shape_of("qwen2.5-3b"), "q4", 3)
    with pytest.raises(InputError, match=r"^shape: 3 models of 3.09 billion weights take 9.8 GB at q8, and 10.0 GB"):
        check_memory(shape_of("qwen2.5-3b"), "q8", 3)
    monkeypatch.setattr(module, "available_bytes", lambda: None)  # a system that does not tell
    check_memory(shape_of("qwen2.5-3b"), "f32", 100)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3"])
def test_a_rule_leaves_about_the_share_that_was_asked_for(family, rule):
    weights = open_weights(tiny_model(family))
    dtype = "q8" if rule == "guess" else "f32"
    with Engine(weights, recipe=rule_recipe(weights, rule, 0.25, dtype=dtype), dtype=dtype, threads=1) as engine:
        engine.prefill([3, 4, 5])
        for token in np.random.default_rng(1).integers(3, 60, 40):
            engine.step(int(token))
        density, achieved = engine.density(), engine.achieved()
    masked = {"gate": {"up", "down"}, "guess": {"down"}, "inputs": {"q", "k", "v", "o", "gate", "up", "down"}}[rule]
    assert {name.partition(".")[2] for name, share in density.items() if share < 1} == masked
    assert achieved == pytest.approx(0.75, abs=0.04)


def test_random_weights_keep_the_share_of_every_linear():
    weights = random_weights(
        replace(shape_of("smollm2-135m"), layers=3, windows=(0,) * 3, layer_frequencies=(0,) * 3), "q8"
    )
    with Engine(weights, recipe=rule_recipe(weights, "inputs", 0.3), threads=1) as engine:
        engine.prefill([3])
        for token in np.random.default_rng(1).integers(3, 40_000, 40):
            engine.step(int(token))
        found = {name: share for name, share in engine.density().items() if "." in name}
    assert len(found) == 21
    # What attention puts out becomes smaller as a text becomes longer.
    assert found == {name: pytest.approx(0.3, abs=0.1 if name.endswith("o") else 0.03) for name in found}


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_a_threshold_is_the_quantile_of_the_scores_of_the_sparse_model(family):
    """In the first layer, whose gate reads a dense attention: against transformers' own numbers."""
    model = tiny_model(family)
    weights = open_weights(model)
    recipe, ids = (
        rule_recipe(weights, "gate", 0.25, dtype="f32"),
        torch.from_numpy(np.random.default_rng(0).integers(0, 64, 64)),
    )
    seen = {}
    gate = getattr(model.model.layers[0].mlp, "gate_up_proj", None) or model.model.layers[0].mlp.gate_proj
    gate.register_forward_hook(lambda *given: seen.update(gate=given[2][..., :48]))
    with torch.no_grad():
        model(ids[None])
    scores = torch.nn.functional.silu(seen["gate"])[0].abs()
    assert recipe.gates[0].selector.value == pytest.approx(float(scores[1:].quantile(0.75)), rel=1e-3)


def test_a_rule_refuses_what_it_cannot_do():
    weights = open_weights(tiny_model("gpt2"))
    with pytest.raises(UnsupportedModelError, match=r"^model: a gpt2 has no gate"):
        rule_recipe(weights, "gate", 0.5)
    for density in (0.0, 1.0, 1.5, math.nan):
        with pytest.raises(InputError, match=r"^density: .* is not between 0 and 1"):
            rule_recipe(weights, "inputs", density)
