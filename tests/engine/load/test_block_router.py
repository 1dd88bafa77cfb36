"""Blocks of neurons in the engine: weights in another order give the same, and what is on is read as whole panels."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from drafts import check_text_is_dense
from gguf_files import write_gguf
from transformers import AutoModelForCausalLM, LlamaConfig

from sparseact.engine.engine import Engine
from sparseact.errors import InputError
from sparseact.models.weights import open_weights
from sparseact.policies import BlockRouter, Phases
from sparseact.recipes.selectors import Threshold, TopK
from sparseact.testing import tiny_model, tiny_tokenizer

IDS = np.random.default_rng(0).integers(0, 64, 12).tolist()
TEXT = "".join(random.Random(0).choices("abcdefghijklmnop ABCDEFG", k=2000))
PARTS = ("gate", "up", "down")


def calibrated(family="llama", **options):
    model = tiny_model(family)
    return model, BlockRouter(0.5, **{"block": 16} | options).calibrate(model, tiny_tokenizer(), TEXT)


def steps(model, recipe, **options):
    with Engine.from_model(model, recipe, **options) as engine:
        return np.stack([engine.step(token) for token in IDS])


@pytest.mark.parametrize("family", ["llama", "phi", "gpt2"])
def test_the_order_of_the_neurons_leaves_dense_tokens_as_they_were(family):
    """With biases of the neurons (Phi), and weights that are stored transposed (GPT-2)."""
    model, recipe = calibrated(family, phases=Phases(dense_first=99))
    found = steps(model, recipe, dtype="f32", threads=2)
    np.testing.assert_allclose(found, steps(model, None, dtype="f32", threads=2), atol=2e-5)


def test_rows_and_columns_are_read_in_the_order():
    weights = open_weights(tiny_model("phi"))
    order = np.random.default_rng(1).permutation(48)
    mixed = replace(weights, orders={"1": tuple(order.tolist())})
    np.testing.assert_array_equal(mixed.floats("1.gate", 5, 20), weights.floats("1.gate")[order[5:20]])
    np.testing.assert_array_equal(mixed.floats("1.gate.bias"), weights.floats("1.gate.bias")[order])
    np.testing.assert_array_equal(mixed.floats("1.down", 3, 9), weights.floats("1.down", 3, 9)[:, order])
    np.testing.assert_array_equal(mixed.floats("1.down.bias"), weights.floats("1.down.bias"))
    np.testing.assert_array_equal(mixed.floats("0.gate"), weights.floats("0.gate"))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["bf16", "q8", "q4"])
@pytest.mark.parametrize("constants", [True, False], ids=["constants", "zeros"])
def test_steps_are_near_the_prompt_at_once_and_far_from_dense(dtype, constants, threads):
    """The same weights by NumPy and by the compiled step, which rounds router, inputs and constants otherwise."""
    model, recipe = calibrated(constants=constants)
    found = steps(model, recipe, dtype=dtype, threads=threads)
    at_once = []
    with Engine.from_model(model, recipe, dtype=dtype, threads=threads) as engine:
        for n in range(1, len(IDS) + 1):
            at_once.append(engine.prefill(IDS[:n]))
            engine.reset()
    near = np.abs(found - at_once).mean()
    assert near < (0.002 if dtype == "bf16" else 0.1)
    assert near < 0.2 * np.abs(found - steps(model, None, dtype=dtype, threads=1)).mean()


def test_columns_of_4_bits_that_are_mixed_get_8(tmp_path):
    """Their blocks of 32 cannot keep their scales; rows of gate and up are as they were."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    write_gguf(tmp_path / "tiny.gguf", model, "llama", "Q4_1")
    recipe = BlockRouter(0.5, block=32).calibrate(model, tiny_tokenizer(), TEXT)
    order = np.argsort(recipe.gates[0].blocks.numpy(), kind="stable")
    mlp = model.model.layers[0].mlp
    for dtype in ("file", "q4"):
        with Engine.from_model(tmp_path / "tiny.gguf", recipe, dtype=dtype, threads=1) as engine:
            assert {part: engine._model.arena.linears[engine._model.numbers[f"0.{part}"]].format for part in PARTS} == {
                "gate": "q4m",
                "up": "q4m",
                "down": "q8",
            }
            held = {part: engine._model.weight(f"0.{part}") for part in PARTS}
        np.testing.assert_allclose(held["up"], mlp.up_proj.weight.detach().numpy()[order], atol=1e-6)
        down = mlp.down_proj.weight.detach().numpy()[:, order]
        np.testing.assert_allclose(held["down"], down, atol=np.abs(down).max() / 250)


def test_the_bytes_are_the_blocks_that_are_on_and_the_router():
    model, recipe = calibrated()
    with Engine.from_model(model, recipe, dtype="q8", threads=2) as engine:
        for token in IDS:
            engine.step(token)
        density, sizes = engine.density(), engine.gated_bytes()
        assert set(sizes) == {f"{layer}.{part}" for layer in range(3) for part in PARTS}
        mlp = 0.0
        for layer in range(3):
            share = density[f"{layer}.down"]
            assert density[f"{layer}.gate"] == density[f"{layer}.up"] == share < 1
            assert share * 48 * len(IDS) % 16 == pytest.approx(0, abs=1e-6) or share * 48 * len(IDS) % 16 > 15.99
            # Of gate and up, 32 inputs and a scale; of down 64 outputs, whose scales serve all columns of a block. Of
            # the router, 3 rows padded to a panel of 16, for each token but the first.
            mlp += 2 * 48 * (32 + 2) * share + 64 * 64 * share + 64 * 2 * 2 + 16 * (32 + 2) * (1 - 1 / len(IDS))
        read = engine.bytes_per_token()
    with Engine.from_model(model, dtype="q8", threads=1) as dense:
        dense.step(0)
        plain = sum(dense._model.arena.bytes_of(dense._model.numbers[f"{n}.{p}"]) for n in range(3) for p in PARTS)
        assert read - mlp == pytest.approx(dense.bytes_per_token() - plain)


def test_none_on_gives_the_constants():
    model, recipe = calibrated()
    none = replace(recipe, gates=tuple(replace(gate, selector=Threshold(1.0)) for gate in recipe.gates))
    found = steps(model, none, dtype="f32", threads=2)
    with Engine.from_model(model, none, dtype="f32", threads=1) as engine:
        np.testing.assert_allclose(engine.prefill(IDS), found[-1], atol=1e-4)
        assert engine.density()["1.gate"] == 1  # of no token that was run alone


def test_drafts_of_the_recipe_give_the_dense_text():
    model, recipe = calibrated()
    check_text_is_dense(model, recipe, IDS)


def test_what_the_panels_have_not_is_refused_in_one_line():
    model, recipe = calibrated()
    by_count = replace(recipe, gates=tuple(replace(gate, selector=TopK(0.5)) for gate in recipe.gates))
    small = calibrated(block=8)[1]
    for one, reason in (
        (by_count, "it routes among blocks by TopK"),
        (small, "its blocks are not all of one size that is a multiple of 16"),
    ):
        with pytest.raises(InputError, match=f"the engine does not run block-router .{reason}.; it runs"):
            Engine.from_model(model, one)
