"""The forward in NumPy equals transformers' at every position, however the tokens are cut."""

import math

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from transformers.activations import ACT2FN

from sparseact.engine.engine import Engine
from sparseact.engine.forward import prefill
from sparseact.engine.forward.neurons import activate
from sparseact.engine.forward.prefill import Cache, Forward, rotate
from sparseact.engine.forward.products import products
from sparseact.errors import InputError
from sparseact.models.architecture import Activation
from sparseact.models.families import read_config
from sparseact.models.weights import open_weights
from sparseact.testing import tiny_model

RUN = ["llama", "mobillama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma2", "gemma3", "gpt2", "opt"]
IDS = np.random.default_rng(0).integers(0, 64, 40)


def reference(model, ids=IDS):
    with torch.no_grad():
        return model(torch.as_tensor(ids)[None]).logits[0].numpy()


@pytest.mark.parametrize("family", RUN)
def test_logits_equal_transformers_at_every_position(family):
    model = tiny_model(family)
    forward = Forward.reading(open_weights(model))
    logits = forward.logits(forward.prefill(IDS, Cache.empty(forward.architecture, 40)))
    np.testing.assert_allclose(logits, reference(model), atol=5e-5)


@pytest.mark.parametrize("family", RUN)
def test_chunks_and_single_steps_with_the_cache_equal_one_go(family, monkeypatch):
    forward = Forward.reading(open_weights(tiny_model(family)))
    whole_cache, cache = (Cache.empty(forward.architecture, 50) for _ in range(2))
    whole = forward.prefill(IDS, whole_cache)
    monkeypatch.setattr(prefill, "CHUNK", 7)
    monkeypatch.setattr(prefill, "QUERIES", 3)
    parts = [forward.prefill(part, cache) for part in (IDS[:23], IDS[23:24], IDS[24:25], IDS[25:])]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-5)
    np.testing.assert_allclose(cache.keys, whole_cache.keys, atol=2e-5)
    np.testing.assert_allclose(cache.values, whole_cache.values, atol=2e-5)
    assert cache.length == whole_cache.length == 40


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
def test_a_sliding_window_hides_what_is_before_it(family):
    """A model of one sliding layer, window 4: position 9 sees tokens 6 to 9 and no other."""
    import dataclasses

    weights = open_weights(tiny_model(family))
    one_layer = dataclasses.replace(weights.architecture, layers=1)
    forward = dataclasses.replace(Forward.reading(weights), architecture=one_layer)

    def last(ids):
        return forward.prefill(ids, Cache.empty(one_layer, 10))[-1]

    before, at_edge = IDS[:10].copy(), IDS[:10].copy()
    before[5] = (before[5] + 1) % 64
    at_edge[6] = (at_edge[6] + 1) % 64
    np.testing.assert_array_equal(last(before), last(IDS[:10]))
    assert np.abs(last(at_edge) - last(IDS[:10])).max() > 1e-3


def test_a_float16_cache_costs_little():
    forward = Forward.reading(open_weights(tiny_model("llama")))
    cache = Cache.empty(forward.architecture, 40, np.float16)
    halved = forward.prefill(IDS, cache)
    assert cache.keys.dtype == np.float16
    exact = forward.prefill(IDS, Cache.empty(forward.architecture, 40))
    assert 0 < np.abs(halved - exact).max() < 0.02


def test_replaced_inputs_are_what_the_linears_see():
    """Channels of every linear cut at a threshold, against hooks on the model."""
    model = tiny_model("llama")
    seen = []

    def replace(name, x, outputs, start):
        seen.append((name, tuple(outputs), start))
        return np.where(np.abs(x) > 0.3, x, np.float32(0))

    forward = Forward.reading(open_weights(model), replace=replace)
    sparse = forward.logits(forward.prefill(IDS, Cache.empty(forward.architecture, 40)))

    def cut(_module, args):
        return (torch.where(args[0].abs() > 0.3, args[0], 0.0),)

    hooks = [m.register_forward_pre_hook(cut) for n, m in model.model.named_modules() if n.endswith("_proj")]
    np.testing.assert_allclose(sparse, reference(model), atol=5e-5)
    for hook in hooks:
        hook.remove()
    assert np.abs(sparse - reference(model)).max() > 0.1
    assert seen[4] == ("0.gate", ("q", "k", "v", "o", "mlp"), 0)
    assert seen[6] == ("0.down", ("q", "k", "v", "o", "mlp", "gate", "up"), 0)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([], "at least one"),
        ([64], "vocabulary has 64"),
        ([-1], "vocabulary has 64"),
        ([0.5], "at least one integer"),
        ([[1, 2]], "at least one integer"),
        ([1] * 11, "context of 10"),
    ],
)
def test_wrong_tokens_are_refused_and_leave_the_cache_alone(ids, said):
    forward = Forward.reading(open_weights(tiny_model("llama")))
    cache = Cache.empty(forward.architecture, 10)
    with pytest.raises(InputError, match=said):
        forward.prefill(ids, cache)
    assert cache.length == 0
    assert not cache.keys.any()


def test_learned_positions_end_with_the_model():
    forward = Forward.reading(open_weights(tiny_model("gpt2")))
    with pytest.raises(InputError, match="context of 128"):
        forward.prefill([1] * 129, Cache.empty(forward.architecture, 200))


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (Activation.SILU, "silu"),
        (Activation.GELU, "gelu"),
        (Activation.GELU_TANH, "gelu_new"),
        (Activation.RELU, "relu"),
        (Activation.RELU_SQUARED, "relu2"),
    ],
)
def test_activations_equal_those_of_transformers(activation, name):
    x = np.concatenate([np.linspace(-12, 12, 2001), [-200, 200]]).astype(np.float32)
    with np.errstate(all="raise", under="ignore"):
        ours = activate(x, activation)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, ACT2FN[name](torch.as_tensor(x)).numpy(), atol=2e-6)


def test_rotation_by_hand():
    x = np.array([[[1, 0, 5]]], np.float32)  # one pair and a dimension that stays
    angle = np.array([[math.pi / 2]])
    np.testing.assert_allclose(rotate(x, np.cos(angle), np.sin(angle)), [[[0, 1, 5]]], atol=1e-7)


@pytest.mark.smollm2
def test_smollm2_from_its_gguf_file_says_what_transformers_says(smollm2):
    from sparseact.models import gguf_path

    model, tokenizer = smollm2
    ids = tokenizer("The sky is blue because 12 kinds of light scatter.")["input_ids"]
    forward = Forward.reading(open_weights(gguf_path("smollm2")))
    assert forward.architecture == read_config(model.config.to_dict(), "")
    logits = forward.logits(forward.prefill(ids, Cache.empty(forward.architecture, 32)))
    np.testing.assert_allclose(logits, reference(model, ids), atol=1e-3)


def test_numpy_has_one_thread_while_a_prompt_is_read():
    """More would go on spinning on the processors that the next tokens want; afterwards they are as before."""

    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"), Engine.from_model(tiny_model("llama"), threads=2) as engine:
        before = threads()
        with products(engine._model, 2):
            assert threads() == {1}
        engine.prefill([1, 2, 3])
        assert threads() == before
