"""The screened head: the same tokens as the whole one where its margin is wide, and what it reads."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

pytest.importorskip("numba")

from sparseact.engine import engine as engine_module
from sparseact.engine.engine import Engine
from sparseact.engine.forward.state import FOUND, X
from sparseact.engine.lm_head import cache as kept_screen
from sparseact.engine.lm_head.fit import SCREEN, fill_screen, room_for_screen
from sparseact.engine.load.load_model import formats_of, load_model
from sparseact.errors import InputError
from sparseact.models.weights import open_weights
from sparseact.policies import TEAL
from sparseact.testing import tiny_model, tiny_tokenizer

IDS = np.random.default_rng(0).integers(0, 60, 30)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Where screens are kept; not in the user's cache."""
    monkeypatch.setattr(kept_screen, "cache_folder", lambda: tmp_path)
    return tmp_path / "screens"


def set_margin(engine, left_out, rounding):
    """Factors of the margin."""
    tables = engine._lead._arguments[2]
    for name, factor in zip(SCREEN, (left_out, rounding), strict=True):
        tables.thresholds[engine._model.numbers[name]] = factor


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["f32", "q8"])
@pytest.mark.parametrize("family", ["llama", "phi", "gemma2", "gpt2"])
def test_with_an_endless_margin_all_is_as_without_a_screen(family, dtype, threads):
    model = tiny_model(family)
    with Engine.from_model(model, dtype=dtype, threads=threads) as plain:
        plain.prefill(IDS[:4])
        expected, logits = plain.greedy(20), plain.step(3)
    with Engine.from_model(model, dtype=dtype, threads=threads, screen=True) as engine:
        assert engine.position == 0
        set_margin(engine, np.inf, np.inf)
        engine.prefill(IDS[:4])
        assert engine.greedy(20) == expected
        np.testing.assert_array_equal(engine.step(3), logits)


def twin(engine):
    """Approximate logits and size of the margin's two parts, in NumPy, for the input of the head in the last step."""
    model, hidden = engine._model, engine.architecture.hidden
    x = engine._buffers.floats[0, X, :hidden].astype(np.float64)
    basis = model.weight("screen.basis")
    y = basis @ x + model.vector("screen.basis.bias", len(basis))
    blocks = np.pad(y, (0, -len(y) % 32)).reshape(-1, 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / 127
    rounded = (np.rint(blocks / scale) * scale).reshape(-1)[: len(y)]
    logits = model.weight("screen") @ rounded + model.vector("screen.bias", engine.architecture.vocabulary)
    rest = ((x - model.vector("screen.mean", hidden)) ** 2).sum() - (y**2).sum()
    return logits, max(rest, 0.0), (y**2).sum()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", ["llama", "phi"])
def test_the_panels_within_the_margin_are_computed_and_no_others(family, threads):
    model = tiny_model(family)
    with Engine.from_model(model, dtype="f32", threads=threads, screen=True) as engine:
        vocabulary, seen = engine.architecture.vocabulary, set()
        for factor in np.linspace(0, 0.3, 12):
            set_margin(engine, 2 * factor, factor)
            exact = engine.step(5)
            engine.reset()
            engine._run(5, screened=True)
            approximate, rest, kept = twin(engine)
            margin = factor * np.sqrt(4 * rest + kept)
            panels = np.pad(approximate, (0, -vocabulary % 16), constant_values=-np.inf).reshape(-1, 16).max(1)
            computed = panels >= panels.max() - margin
            seen.add(computed.sum())
            inside = np.repeat(computed, 16)[:vocabulary]
            found = engine._buffers.logits[0, :vocabulary]
            np.testing.assert_array_equal(found[inside], exact[inside])
            np.testing.assert_allclose(found[~inside], approximate[~inside], atol=1e-4)
            assert engine._buffers.control[FOUND] == np.where(inside, exact, -np.inf).argmax()
            assert engine.density()["head" if "head" in engine._model.numbers else "embed"] == pytest.approx(
                computed.mean()
            )
            engine.reset()
        assert len(seen) > 1  # the factors are such that it matters


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 90))
def test_the_screen_is_the_head_along_the_leading_directions(seed, rank):
    """Inputs in a space that the screen holds whole: what is left out is the rounding's."""
    rng = np.random.default_rng(seed)
    weights = open_weights(tiny_model("llama"))
    spare, vectors = room_for_screen(weights.architecture)
    model = load_model(weights, formats_of(weights, "f32"), {}, vectors, spare)
    hidden = weights.architecture.hidden
    rank = min(rank, hidden // 2)
    inputs = rng.standard_normal((200, rank)) @ rng.standard_normal((rank, hidden)) + rng.standard_normal(hidden)
    name = "embed" if weights.architecture.tied else "head"
    left_out, rounding = fill_screen(model, name, inputs.astype(np.float32), sigmas=1)
    head, basis = model.weight(name), model.weight("screen.basis")
    centred = inputs - inputs.mean(0)
    y = centred @ basis.T
    np.testing.assert_allclose((y**2).sum(1), (centred**2).sum(1), rtol=0.02)
    approximate = y @ model.weight("screen").T + model.vector("screen.bias", len(head))
    errors = approximate - inputs @ head.T
    sigma = np.sqrt(left_out**2 * 0 + rounding**2 * (y**2).sum(1))
    assert 0.7 < errors.std() / np.sqrt((sigma**2).mean()) < 1.3


def test_a_recipe_that_chooses_inputs_of_the_head_excludes_a_screen():
    model = tiny_model("llama")
    text = "".join(random.Random(0).choices("abcdefghijklmnop ABCDEFG", k=2000))
    recipe = TEAL(0.5, lm_head=True).calibrate(model, tiny_tokenizer(), text)
    with pytest.raises(InputError, match="screen: this recipe chooses inputs of the head itself"):
        Engine.from_model(model, recipe, screen=True)


def test_bytes_are_those_of_the_screen_and_of_what_it_lets_through():
    with Engine.from_model(tiny_model("llama"), dtype="q8", threads=1, screen=True) as engine:
        assert engine.density().keys() >= set(SCREEN)
        engine.prefill(IDS[:3])
        engine.greedy(5)
        arena, numbers, density = engine._model.arena, engine._model.numbers, engine.density()
        assert density["screen"] == density["screen.basis"] == 1
        name = "embed" if engine.architecture.tied else "head"
        panels = -(-engine.architecture.vocabulary // 16)
        assert 0 < density[name] < 1
        assert (density[name] * panels * 4).is_integer()  # 4 tokens were run
        parts = [arena.bytes_of(numbers[part]) for part in SCREEN]
        expected = sum(parts) + 4 * engine.architecture.vocabulary + density[name] * arena.bytes_of(numbers[name])
        assert engine.head_bytes_per_token() == pytest.approx(expected)
        engine.reset()
        engine.step(1)
        assert engine.head_bytes_per_token() == arena.bytes_of(numbers[name])


def screen_of(engine):
    """Bytes and vectors of an engine's screen, and the factors of its margin."""
    places = kept_screen._places(engine._model)
    margin = engine._lead._arguments[2].thresholds[[engine._model.numbers[name] for name in SCREEN]]
    return b"".join(part.tobytes() for part in [*places.values(), margin])


def made_again(monkeypatch):
    """A list that grows with each screen that is made."""
    made = []

    def note(*arguments):
        made.append(arguments)
        return fill_screen(*arguments)

    monkeypatch.setattr(engine_module, "fill_screen", note)
    return made


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_a_screen_is_made_once(family, kept, monkeypatch):
    made = made_again(monkeypatch)
    model = tiny_model(family)
    with Engine.from_model(model, threads=1, screen=True) as engine:
        first = screen_of(engine)
        engine.prefill(IDS)
        expected = engine.greedy(10)
    with Engine.from_model(model, threads=2, screen=True) as engine:
        assert screen_of(engine) == first
        engine.prefill(IDS)
        assert engine.greedy(10) == expected
    assert len(made) == len(list(kept.iterdir())) == 1


def test_another_head_or_another_type_has_a_screen_of_its_own(kept, monkeypatch):
    made = made_again(monkeypatch)
    model = tiny_model("llama")
    Engine.from_model(model, threads=1, screen=True).close()
    model.lm_head.weight.data[3, 5] += 0.25
    Engine.from_model(model, threads=1, screen=True).close()
    model.model.norm.weight.data[2] += 0.25
    Engine.from_model(model, threads=1, screen=True).close()
    Engine.from_model(model, dtype="f32", threads=1, screen=True).close()
    assert len(made) == len(list(kept.iterdir())) == 4


@pytest.mark.parametrize("damage", ["cut", "empty", "others"])
def test_a_damaged_screen_is_made_again(damage, kept, monkeypatch):
    made = made_again(monkeypatch)
    model = tiny_model("llama")
    with Engine.from_model(model, threads=1, screen=True) as engine:
        first = screen_of(engine)
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    if damage == "others":
        save_file({"factors": np.zeros(2), "screen.0": np.zeros(3, np.uint8)}, path)
    else:
        path.write_bytes(whole[:-7] if damage == "cut" else b"")
    with Engine.from_model(model, threads=1, screen=True) as engine:
        assert screen_of(engine) == first
    assert len(made) == 2
    assert path.read_bytes() == whole


def test_where_nothing_can_be_written_a_screen_is_made_each_time(tmp_path, monkeypatch):
    made = made_again(monkeypatch)
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(kept_screen, "cache_folder", lambda: file)
    for _ in range(2):
        with pytest.warns(UserWarning, match="the screen is made anew at each load: cannot write"):
            Engine.from_model(tiny_model("llama"), threads=1, screen=True).close()
    assert len(made) == 2


@pytest.mark.smollm2
def test_tokens_of_the_real_model_are_those_of_the_whole_head(smollm2):
    _, tokenizer = smollm2
    ids = tokenizer("The most surprising thing about the ocean is").input_ids
    with Engine.from_model("smollm2", dtype="file", threads=2) as plain:
        plain.prefill(ids)
        expected, whole = plain.greedy(80), plain.bytes_per_token()
    with Engine.from_model("smollm2", dtype="file", threads=2, screen=True) as engine:
        engine.prefill(ids)
        assert engine.greedy(80) == expected
        assert engine.bytes_per_token() < 0.9 * whole
        assert engine.head_bytes_per_token() < 0.65 * 30.1e6
