"""Lossless drafts: the text of the dense engine, and its logits, bit by bit, however many tokens are drafted."""

import random
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("numba")

from sparseact.engine.engine import Engine
from sparseact.engine.forward.batch import MOST
from sparseact.engine.speculative import PROBE, DraftLength
from sparseact.errors import InputError
from sparseact.policies import CATS, TEAL, Griffin, SparseAct
from sparseact.testing import tiny_model, tiny_tokenizer

IDS = np.random.default_rng(0).integers(0, 64, 12).tolist()
TEXT = "".join(random.Random(0).choices("abcdefghijklmnop ABCDEFG", k=2000))
POLICIES = {"sparseact": SparseAct(0.4, lm_head=True), "cats": CATS(0.4), "griffin": Griffin(0.4, heads=1.0)}


class Always:
    """A draft of the same length each time."""

    def __init__(self, tokens):
        self.tokens, self.noted = tokens, []

    def choose(self, most):
        return min(self.tokens, most)

    def measured(self, drafted, accepted, *_seconds):
        self.noted.append((drafted, accepted))


def calibrated(policy, family="llama"):
    model = tiny_model(family)
    return model, policy.calibrate(model, tiny_tokenizer(), TEXT)


def engines(model, recipe, *, tokens=None, dtype="q8", threads=1):
    """A lossless engine that drafts so many tokens each time, and a dense one."""
    engine = Engine.from_model(model, recipe, dtype=dtype, threads=threads, lossless=True)
    if tokens is not None:
        engine._speculation.length = Always(tokens)
    return engine, Engine.from_model(model, dtype=dtype, threads=1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8", "q4"])
def test_the_text_is_that_of_the_dense_engine(policy, dtype):
    model, recipe = calibrated(POLICIES[policy])
    for tokens, threads in ((0, 2), (1, 1), (3, 2), (MOST - 1, 1)):
        engine, dense = engines(model, recipe, tokens=tokens, dtype=dtype, threads=threads)
        with engine, dense:
            engine.prefill(IDS)
            dense.prefill(IDS)
            assert engine.greedy(60) == dense.greedy(60)
            assert bool(engine._speculation.drafted) == bool(tokens)
            np.testing.assert_array_equal(engine.step(7), dense.step(7))


@pytest.mark.parametrize("family", ["qwen3", "phi", "gemma3", "gpt2"])
def test_every_family(family):
    model, recipe = calibrated(SparseAct(0.3), family)
    engine, dense = engines(model, recipe, tokens=4, threads=2)
    with engine, dense:
        for token in IDS:
            np.testing.assert_array_equal(engine.step(token), dense.step(token))
        assert engine.greedy(50) == dense.greedy(50)
        np.testing.assert_array_equal(engine.step(7), dense.step(7))


def test_whatever_comes_between():
    """Known tokens are forgotten when another text goes on; keys and values beyond it do no harm."""
    model, recipe = calibrated(SparseAct(0.2))
    engine, dense = engines(model, recipe, tokens=5)
    with engine, dense:
        for one in (engine, dense):
            one.prefill(IDS)
        choices = random.Random(1)
        for _ in range(12):
            n, token, several = choices.randrange(1, 4), choices.randrange(64), choices.choices(range(64), k=2)
            for call in (lambda e, n=n: e.greedy(n), lambda e, t=token: e.step(t), lambda e, s=several: e.prefill(s)):
                np.testing.assert_array_equal(call(engine), call(dense))
                assert engine.position == dense.position


def test_drafts_end_with_the_context():
    model, recipe = calibrated(TEAL(0.2))
    engine, dense = engines(model, recipe, tokens=MOST - 1)
    room = engine.context - len(IDS)
    with engine, dense:
        for one in (engine, dense):
            one.prefill(IDS)
        assert engine.greedy(room) == dense.greedy(room)
        with pytest.raises(InputError, match="has room for"):
            engine.greedy(1)


def test_what_is_counted():
    """A draft that leaves nothing out is accepted whole; what a text read is its drafts and its passes."""
    model, recipe = calibrated(TEAL(0.0))
    engine, dense = engines(model, recipe, tokens=3)
    with engine, dense:
        assert engine.acceptance() is None
        assert dense.acceptance() is None
        for one in (engine, dense):
            one.prefill(IDS)
            one.greedy(41)  # the last one is not run
        assert engine.acceptance() == 1
        assert engine.bytes_per_token() == dense.bytes_per_token() * (3 + 1) / 4
        engine.reset()
        assert engine.acceptance() is None


def test_a_recipe_is_needed():
    with pytest.raises(InputError, match="lossless: drafts are sparse; give the engine a recipe"):
        Engine.from_model(tiny_model("llama"), lossless=True)
    model, recipe = calibrated(TEAL(0.2))
    with pytest.raises(InputError, match="lossless: is exact, and a screen is not"):
        Engine.from_model(model, recipe, lossless=True, screen=True)


def chosen(draft, passes, acceptance, rounds=600):
    """Which lengths a DraftLength comes to choose where those are the costs, in the last half of the rounds."""
    length, draws, lengths = DraftLength(), random.Random(0), []
    for _ in range(rounds):
        n = length.choose(100)
        lengths.append(n)
        accepted = next((k for k in range(n) if draws.random() > acceptance), n)
        length.measured(n, accepted, n * draft, passes(n + 1))
    return Counter(lengths[rounds // 2 :])


def test_drafts_are_as_long_as_pays():
    assert chosen(0.1, lambda n: 1 + n / 100, 1.0).most_common(1)[0][0] == MOST - 1
    # By hand: (0.4 n + 1) / (1 + .6 + ... + .6^n) is 1, .875, .918, ... for n = 0, 1, 2.
    assert chosen(0.4, lambda n: 1.0, 0.6).most_common(1)[0][0] in {1, 2}
    lengths = chosen(1.0, lambda n: 1.0, 0.9)
    assert lengths[0] > 0.95 * lengths.total()
    assert 0 < lengths[1] <= lengths.total() / PROBE + 1  # now and then it is tried again


@pytest.mark.smollm2
def test_the_real_model(smollm2):
    model, tokenizer = smollm2
    recipe = TEAL(0.4).calibrate(model, tokenizer, "The ocean is deep and the sky is wide. " * 60)
    ids = tokenizer("The capital of France is").input_ids
    engine, dense = engines("smollm2", recipe, tokens=3, dtype="file", threads=2)
    with engine, dense:
        engine.prefill(ids)
        dense.prefill(ids)
        assert engine.greedy(48) == dense.greedy(48)
        assert engine.acceptance() > 0.2
