"""Shapes, random weights in them, and recipes that switch off a given share: what bench --shape runs."""

import math

import numpy as np
import pytest

from sparseact.bench import random_weights as module
from sparseact.bench.random_weights import check_memory, random_weights
from sparseact.bench.rules import RULES, rule_recipe
from sparseact.bench.shapes import SHAPES, shape_of
from sparseact.engine.engine import Engine
from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.formats import dequantise
from sparseact.models.weights import open_weights
from sparseact.policies import TopKNeurons
from sparseact.testing import tiny_model, tiny_tokenizer

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
def test_a_rule_leaves_exactly_the_share_that_was_asked_for(family, rule):
    weights = open_weights(tiny_model(family))
    with Engine(weights, recipe=rule_recipe(weights, rule, 0.25), dtype="f32", threads=1) as engine:
        engine.prefill([3, 4, 5])
        engine.greedy(6)
        found = {name.partition(".")[2]: share for name, share in engine.density().items() if "." in name}
    masked = {"up", "down"} if rule == "gate" else {"q", "k", "v", "o", "gate", "up", "down"}
    assert found == {name: pytest.approx(0.25 if name in masked else 1.0) for name in found}


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_the_gates_rule_is_the_policy_top_k(family):
    model, text = tiny_model(family), "the quick brown fox jumps over a lazy dog " * 40
    weights, logits = open_weights(model), []
    calibrated = TopKNeurons(0.5).calibrate(model, tiny_tokenizer(), text)
    for recipe in (calibrated, rule_recipe(weights, "gate", 0.5), None):
        with Engine(weights, recipe=recipe, dtype="f32", threads=1) as engine:
            engine.prefill([3])  # dense by either
            logits.append(engine.step(4))
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 1e-3


def test_a_rule_refuses_what_it_cannot_do():
    weights = open_weights(tiny_model("gpt2"))
    with pytest.raises(UnsupportedModelError, match=r"^model: a gpt2 has no gate"):
        rule_recipe(weights, "gate", 0.5)
    for density in (0.0, 1.0, 1.5, math.nan):
        with pytest.raises(InputError, match=r"^density: .* is not between 0 and 1"):
            rule_recipe(weights, "inputs", density)
