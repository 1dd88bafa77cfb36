"""The compiled step: equal to transformers for every family, to its NumPy twin in every format, on any threads."""

from functools import partial

import numpy as np
import pytest
import torch

from sparseact.engine.engine import Engine
from sparseact.engine.forward.prefill import Cache, Forward
from sparseact.engine.load.load_model import formats_of, load_model
from sparseact.errors import InputError
from sparseact.models.formats import Quantised
from sparseact.models.weights import open_weights
from sparseact.testing import tiny_model

FAMILIES = ("llama", "mobillama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma2", "gemma3", "opt", "gpt2")
"""Of all others tests/models/test_family_files.py has as much."""
IDS = np.random.default_rng(0).integers(0, 64, 30)


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.as_tensor(np.asarray(ids))[None]).logits[0].numpy()


def greedy_of(model, ids, n):
    ids = torch.as_tensor(np.asarray(ids))[None]
    out = model.generate(ids, max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_equal_transformers_at_every_position(family):
    model = tiny_model(family)
    with Engine.from_model(model, dtype="f32", threads=1) as engine:
        logits = np.stack([engine.step(token) for token in IDS])
    np.testing.assert_allclose(logits, logits_of(model, IDS), atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_greedy_tokens_equal_transformers(family, threads):
    model = tiny_model(family)
    n = min(64, model.config.max_position_embeddings - 8)
    with Engine.from_model(model, dtype="f32", threads=threads) as engine:
        engine.prefill(IDS[:8])
        assert engine.greedy(n) == greedy_of(model, IDS[:8], n)
        assert engine.position == 8 + n


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8", "q4"])
def test_threads_change_no_bit(dtype):
    model = tiny_model("llama")
    found = []
    for threads in (1, 2, 3):
        with Engine.from_model(model, dtype=dtype, threads=threads) as engine:
            found.append([engine.step(token) for token in IDS])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def rounded(x):
    """Activations as the step rounds them for quantised weights: to 8 bits in blocks of 32."""
    padded = np.pad(x, [(0, 0), (0, -x.shape[1] % 32)])
    blocks = padded.reshape(len(x), -1, 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    codes = np.rint(np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0))
    return (codes * scale).reshape(padded.shape)[:, : x.shape[1]]


def forward_of(engine, see):
    """The forward in NumPy on the engine's weights, in float32; linears see their inputs through `see`."""
    model = engine._model
    embed = partial(model.rows, "embed")
    return Forward(engine.architecture, lambda name, x: see(x) @ model.weight(name).T, engine._vectors, embed)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8", "q4"])
@pytest.mark.parametrize("family", ["llama", "phi", "gemma3", "gpt2"])
def test_a_step_equals_the_forward_in_numpy_on_the_same_weights(family, dtype):
    weights = open_weights(tiny_model(family))
    exact = dtype == "f32"
    with Engine(weights, dtype=dtype, threads=1) as engine:
        twin = forward_of(engine, rounded if dtype[0] == "q" else lambda x: x)
        cache = Cache.empty(weights.architecture, 30, np.float32 if exact else np.float16)
        errors = []
        for token in IDS:
            hidden = twin.prefill([token], cache)
            expected = twin.logits(hidden)[0]
            errors.append(np.abs(engine.step(token) - expected).max() / max(1.0, np.abs(expected).max()))
    # A number on the edge between two roundings may go either way, and later tokens remember it.
    assert np.median(errors) < (1e-5 if exact else 3e-3)
    assert max(errors) < (1e-4 if exact else 0.05)


def test_q4_has_a_minimum_and_keeps_embedding_and_head_at_8_bits():
    weights = open_weights(tiny_model("phi"))
    model = load_model(weights, formats_of(weights, "q4"), {})
    formats = {linear.name: linear.format for linear in model.arena.linears}
    assert {formats.pop("embed"), formats.pop("head")} == {"q8"}
    assert set(formats.values()) == {"q4m"}


def test_file_keeps_the_blocks_of_a_gguf_file(tiny_gguf):
    weights = open_weights(tiny_gguf)
    assert isinstance(weights.read("0.q"), Quantised)
    with Engine.from_model(tiny_gguf, dtype="file", threads=1) as engine, Engine(weights, threads=1) as q8:
        assert {linear.format for linear in engine._model.arena.linears} == {"q8"}
        np.testing.assert_array_equal(engine._model.arena.data, q8._model.arena.data)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, "f32"), (torch.bfloat16, "bf16")])
def test_file_keeps_the_precision_of_plain_numbers(dtype, expected):
    weights = open_weights(tiny_model("llama").to(dtype))
    model = load_model(weights, formats_of(weights, "file"), {})
    assert {linear.format for linear in model.arena.linears} == {expected}


def test_prefill_step_and_greedy_add_to_one_text():
    model = tiny_model("gemma3")
    with Engine.from_model(model, dtype="f32", threads=2) as engine:
        engine.prefill(IDS[:4])
        engine.step(IDS[4])
        engine.prefill(IDS[5:9])
        found = engine.greedy(3)
        last = engine.step(5)
        assert engine.position == 13
        np.testing.assert_allclose(last, logits_of(model, [*IDS[:9], *found, 5])[-1], atol=1e-4)
        engine.reset()
        np.testing.assert_allclose(engine.prefill(IDS[:3]), logits_of(model, IDS[:3])[-1], atol=1e-4)


def test_greedy_stops_after_a_stop_token():
    model = tiny_model("llama")
    with Engine.from_model(model, dtype="f32", threads=1) as engine:
        engine.prefill(IDS[:8])
        expected = greedy_of(model, IDS[:8], 12)
        stop = expected[5]
        assert engine.greedy(12, stop={stop}) == expected[: expected.index(stop) + 1]


def test_the_context_is_a_limit():
    model = tiny_model("gpt2")
    limit = model.config.max_position_embeddings
    with Engine.from_model(model, dtype="f32", threads=1) as engine:
        assert engine.context == limit
        engine.prefill(np.resize(IDS, limit - 2))
        engine.greedy(2)
        for call in (lambda: engine.step(1), lambda: engine.greedy(1), lambda: engine.prefill([1])):
            with pytest.raises(InputError, match=f"{limit} tokens: {limit} are there, and 1 more"):
                call()
    with Engine.from_model(model, dtype="f32", threads=1, context=10) as engine:
        engine.prefill(IDS[:8])
        with pytest.raises(InputError, match="10 tokens: 8 are there, and 3 more"):
            engine.greedy(3)
        assert len(engine.greedy(2)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, r"dtype: unknown type of weights 'int8'\. .*Valid: f32, bf16, q8, q4, file\."),
        ({"threads": 0}, "threads: 0 is not between 1 and 256"),
        ({"threads": 1.5}, "threads: 1.5 is not an integer"),
        ({"context": 10**6}, "context: 1000000 is not between 1 and"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(InputError, match=message):
        Engine.from_model(tiny_model("llama"), **options)


@pytest.mark.parametrize("token", [-1, 64, 10**12, 1.0, "a"])
def test_wrong_tokens_never_reach_compiled_code(token):
    with Engine.from_model(tiny_model("llama"), threads=1) as engine:
        size = engine.architecture.vocabulary
        token = size if token == 64 else token
        for call in (lambda: engine.step(token), lambda: engine.prefill([1, token])):
            with pytest.raises(InputError, match="token"):
                call()
        with pytest.raises(InputError, match="the text is empty"):
            engine.greedy(1)


def test_dense_counts():
    with Engine.from_model(tiny_model("llama"), dtype="f32", threads=1) as engine:
        engine.prefill(IDS[:4])
        engine.greedy(4)
        assert set(engine.density().values()) == {1.0}
        read = {linear.name: linear for linear in engine._model.arena.linears}
        if not engine.architecture.tied:
            del read["embed"]  # of which one row is read
        padded = sum(4 * linear.outputs * -(-linear.inputs // 32) * 32 for linear in read.values())
        assert engine.bytes_per_token() == padded


@pytest.mark.smollm2
def test_64_greedy_tokens_of_the_real_model_equal_transformers(smollm2):
    model, tokenizer = smollm2
    ids = tokenizer("The most surprising thing about the ocean is", return_tensors="pt").input_ids[0]
    with Engine.from_model("smollm2", dtype="f32", threads=2) as engine:
        np.testing.assert_allclose(engine.prefill(ids), logits_of(model, ids)[-1], atol=1e-3)
        assert engine.greedy(64) == greedy_of(model, ids, 64)
