"""The text that the dense model writes for itself: its parts, and what a stop leaves."""

import numpy as np
import pytest

import sparseact as sa
from sparseact.errors import InputError
from sparseact.models import load
from sparseact.training import own_text
from sparseact.training.own_text import write_own_text


@pytest.fixture(scope="module")
def model(tiny_gguf):
    return load(str(tiny_gguf), device="cpu")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(own_text, "PART", 150)
    monkeypatch.setattr(own_text, "LONGEST", 60)


def written(model, folder, tokens=400, seed=0):
    return write_own_text(*model, folder, tokens=tokens, seed=seed, threads=1)


def test_there_are_enough_tokens_and_the_same_seed_writes_the_same(model, tmp_path):
    ids = written(model, tmp_path / "a")
    assert len(ids) >= 400
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, written(model, tmp_path / "b"))
    assert not np.array_equal(ids[:100], written(model, tmp_path / "c", seed=1)[:100])


def test_a_stop_loses_a_part_at_most_and_the_text_is_the_same(model, tmp_path, monkeypatch):
    whole = written(model, tmp_path)
    last = max(tmp_path.glob("part-*"))
    kept = min(tmp_path.glob("part-*")).stat().st_mtime_ns
    last.unlink()
    np.testing.assert_array_equal(written(model, tmp_path), whole)
    assert min(tmp_path.glob("part-*")).stat().st_mtime_ns == kept
    monkeypatch.setattr(own_text, "_writer", None)  # nothing is left to write
    np.testing.assert_array_equal(written(model, tmp_path, tokens=100), whole[: len(written(model, tmp_path, 100))])


def test_half_of_the_texts_answer_the_built_in_questions(model, tmp_path):
    text = model[1].decode(written(model, tmp_path).tolist())
    assert sum(question["question"] in text for question in sa.data.builtin_questions()) >= 2


def test_a_damaged_part_is_named(model, tmp_path):
    written(model, tmp_path)
    part = min(tmp_path.glob("part-*"))
    part.write_bytes(b"no tensors")
    with pytest.raises(InputError, match=f"{part.name} is damaged"):
        written(model, tmp_path)


def test_own_is_a_text_to_train_on(model, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEACT_CACHE", str(tmp_path / "cache"))
    result = sa.train(
        *model, "own", out=tmp_path / "out", method="cats", tokens=256, batch=2, window=32, dtype="float32"
    )
    assert list(result.quality["after"]) == ["own"]
    assert list((tmp_path / "cache" / "own-text").glob("*/part-00000.safetensors"))
