"""Leading bits in the engine: the same tokens as with hooks on the model, of weights that have 8 bits on both sides."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from drafts import check_text_is_dense

from sparseact.engine.engine import Engine
from sparseact.errors import InputError
from sparseact.models.formats import dequantise, quantise
from sparseact.policies import LeadingBits, Phases
from sparseact.recipes.selectors import Threshold, TopK
from sparseact.testing import tiny_model, tiny_tokenizer

IDS = np.random.default_rng(0).integers(0, 64, 12).tolist()
TEXT = "".join(random.Random(0).choices("abcdefghijklmnop ABCDEFG", k=2000))
FAMILIES = ("llama", "qwen3", "phi3", "gemma3")


def of_8_bits(family):
    """A tiny model whose matrices are those that the engine has at q8."""
    model = tiny_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.from_numpy(dequantise(quantise(parameter.numpy(), "q8"))))
    return model


def by_hooks(model, recipe, ids):
    """Logits of tokens run one by one, and the counts."""
    logits, cache = [], None
    with recipe(model) as density, torch.no_grad():
        for token in ids:
            out = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits[0, -1].numpy())
    return np.stack(logits), density


@pytest.mark.parametrize("constants", [True, False], ids=["constants", "zeros"])
@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_near_hooks_on_the_model_and_far_from_dense(family, constants):
    """Inputs that are rounded to bytes move all logits, and scores over thresholds: about half as much again."""
    model = of_8_bits(family)
    recipe = LeadingBits(0.5, constants=constants).calibrate(model, tiny_tokenizer(), TEXT)
    ids = np.random.default_rng(1).integers(0, 64, 40).tolist()
    expected, density = by_hooks(model, recipe, ids)
    dense, _ = by_hooks(model, replace(recipe, phases=Phases(dense_first=99)), ids)
    with (
        Engine.from_model(model, recipe, dtype="q8", threads=1) as engine,
        Engine.from_model(model, dtype="q8", threads=1) as plain,
    ):
        found = np.stack([engine.step(token) for token in ids])
        assert engine.achieved() == pytest.approx(density.achieved(), abs=0.02)
        rounding = np.abs(np.stack([plain.step(token) for token in ids]) - dense).mean()
    far, near = np.abs(dense - expected).mean(), np.abs(found - expected).mean()
    assert near < 2.2 * rounding
    assert near < 0.5 * far


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_and_prompts_compute_the_same(family):
    model = of_8_bits(family)
    recipe = LeadingBits(0.5, constants=False).calibrate(model, tiny_tokenizer(), TEXT)
    with Engine.from_model(model, recipe, dtype="q8", threads=1) as engine:
        alone = np.stack([engine.step(token) for token in IDS])
        engine.reset()
        at_once = engine.prefill(IDS)
    with Engine.from_model(model, recipe, dtype="q8", threads=2) as engine:
        np.testing.assert_allclose(np.stack([engine.step(token) for token in IDS]), alone, atol=1e-4)
    np.testing.assert_allclose(at_once, alone[-1], atol=1e-3)


def test_rows_that_are_longer_than_16_blocks_are_finished_from_their_low_planes():
    """Of 576 inputs, 64 are left over. A prompt at once is computed from whole codes."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=576,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=512,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    recipe = LeadingBits(0.6, constants=False).calibrate(model, tiny_tokenizer(), TEXT)
    with Engine.from_model(model, recipe, dtype="q8", threads=2) as engine:
        steps = np.stack([engine.step(token) for token in IDS])
        assert engine.achieved() == pytest.approx(0.6 * 11 / 12, abs=0.06)
        engine.reset()
        np.testing.assert_allclose(engine.prefill(IDS), steps[-1], atol=1e-3)
    with Engine.from_model(model, dtype="q8", threads=1) as dense:
        assert np.abs(dense.prefill(IDS) - steps[-1]).max() > 0.05


@pytest.mark.parametrize(
    ("dtype", "make", "constants", "atol"), [("q8", of_8_bits, False, 2e-4), ("f32", tiny_model, True, 1e-4)]
)
def test_dense_tokens_are_those_of_the_dense_engine_but_for_rounding(dtype, make, constants, atol):
    model = make("llama")
    policy = LeadingBits(0.5, constants=constants, phases=Phases(dense_first=6))
    recipe = policy.calibrate(model, tiny_tokenizer(), TEXT)
    with (
        Engine.from_model(model, recipe, dtype=dtype, threads=1) as engine,
        Engine.from_model(model, dtype=dtype, threads=1) as dense,
    ):
        for token in IDS[:6]:
            np.testing.assert_allclose(engine.step(token), dense.step(token), atol=atol)
        assert engine.achieved() == 0
        assert np.abs(engine.step(IDS[6]) - dense.step(IDS[6])).max() > 1e-2


def test_the_bytes_are_the_high_planes_and_the_runs_of_what_is_on():
    model = of_8_bits("llama")
    recipe = LeadingBits(0.5).calibrate(model, tiny_tokenizer(), TEXT)
    with (
        Engine.from_model(model, recipe, dtype="q8", threads=1) as engine,
        Engine.from_model(model, dtype="q8", threads=1) as dense,
    ):
        for one in (engine, dense):
            for token in IDS:
                one.step(token)
        density, mlp = engine.density(), 0.0
        for layer in range(3):
            assert density[f"{layer}.gate"] == density[f"{layer}.up"] == 1
            # 48 neurons of 32 inputs, padded to 64: half a byte each, and 2 scales. A run: the same twice, padded, and
            # 64 outputs of down; whose scales are 2 for each output.
            high, run, scales = 48 * (32 + 4), 2 * 64 + 64, 2 * 64 * 2
            mlp += 2 * high + 64 * run * density[f"{layer}.down"] + scales
        plain = sum(dense._model.arena.bytes_of(dense._model.numbers[f"{n}.{p}"]) for n in range(3) for p in _PARTS)
        assert engine.bytes_per_token() - mlp == pytest.approx(dense.bytes_per_token() - plain)
        assert set(engine.gated_bytes()) == {"0.down", "1.down", "2.down"}


_PARTS = ("gate", "up", "down")


def test_drafts_of_the_recipe_give_the_dense_text():
    model = of_8_bits("llama")
    recipe = LeadingBits(0.5).calibrate(model, tiny_tokenizer(), TEXT)
    check_text_is_dense(model, recipe, IDS)


def test_level_0_is_dense_bit_by_bit():
    model = of_8_bits("llama")
    recipe = LeadingBits(0.0).calibrate(model, tiny_tokenizer(), TEXT)
    with Engine.from_model(model, recipe, threads=1) as engine, Engine.from_model(model, threads=1) as dense:
        for token in IDS:
            np.testing.assert_array_equal(engine.step(token), dense.step(token))


def test_types_of_fewer_bits_are_refused_in_one_line():
    model = of_8_bits("llama")
    recipe = LeadingBits(0.5).calibrate(model, tiny_tokenizer(), TEXT)
    with pytest.raises(InputError, match=r"^dtype: the recipe reads the leading 4 of 8 bits, .* use q8, bf16 or f32$"):
        Engine.from_model(model, recipe, dtype="q4")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_rows_of_more_bits_follow_a_guess_by_8(family, threads):
    """In float32 nothing but the guess is rounded: its inputs, to bytes; so some scores near a threshold differ."""
    model = tiny_model(family)
    recipe = LeadingBits(0.5).calibrate(model, tiny_tokenizer(), TEXT)
    ids = np.random.default_rng(1).integers(0, 64, 40).tolist()
    expected, density = by_hooks(model, recipe, ids)
    dense, _ = by_hooks(model, replace(recipe, phases=Phases(dense_first=99)), ids)
    with Engine.from_model(model, recipe, dtype="f32", threads=threads) as engine:
        found = np.stack([engine.step(token) for token in ids])
        assert engine.density()["1.down"] == pytest.approx(1 - density.share_off(recipe.gates[1]), abs=0.03)
        read = engine.density()
        assert read["1.gate"] == read["1.up"] == read["1.down"] < 0.8
        engine.reset()
        at_once = engine.prefill(ids)
    error = np.abs(found - expected)
    assert error[0].max() < 1e-2
    assert error.mean() < 0.3 * np.abs(dense - expected).mean()
    np.testing.assert_allclose(at_once, found[-1], atol=1e-3)


def test_what_the_planes_have_not_is_refused_in_one_line():
    model = of_8_bits("llama")
    recipe = LeadingBits(0.5).calibrate(model, tiny_tokenizer(), TEXT)
    by_count = replace(recipe, gates=tuple(replace(gate, selector=TopK(0.5)) for gate in recipe.gates))
    three = LeadingBits(0.5, bits=3).calibrate(model, tiny_tokenizer(), TEXT)
    plain = tiny_model("phi")
    no_up = LeadingBits(0.5).calibrate(plain, tiny_tokenizer(), TEXT)
    for one, of, reason in (
        (three, model, "it reads the leading 3 bits; planes have 4"),
        (by_count, model, "it chooses among guesses by TopK"),
        (no_up, plain, "it guesses neurons, of which the MLPs have no up"),
    ):
        with pytest.raises(InputError, match=f"the engine does not run leading-bits .{reason}.; it runs"):
            Engine.from_model(of, one)


def test_none_on_and_all_on():
    """Where no neuron is on, the MLP gives its constants."""
    model = of_8_bits("llama")
    recipe = LeadingBits(0.5).calibrate(model, tiny_tokenizer(), TEXT)
    none = replace(recipe, gates=tuple(replace(gate, selector=Threshold(1e9)) for gate in recipe.gates))
    expected, _ = by_hooks(model, none, IDS)
    with Engine.from_model(model, none, dtype="q8", threads=2) as engine:
        found = np.stack([engine.step(token) for token in IDS])
    np.testing.assert_allclose(found, expected, atol=0.15)
