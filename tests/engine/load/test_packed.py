"""Packed weights are kept: the same bytes, made again where files or the kept bytes changed, and never too many."""

import os
import shutil

import numpy as np
import pytest

from sparseact.engine.load import packed
from sparseact.engine.load.load_model import formats_of, load_model
from sparseact.models.weights import open_weights
from sparseact.testing import tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a tiny model."""
    path = tmp_path_factory.mktemp("model")
    tiny_model("qwen2").save_pretrained(path)
    return path


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Where packed weights are kept, however small they are."""
    monkeypatch.setattr(packed, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(packed, "LEAST", 0)
    return tmp_path / "packed"


def loaded(path, dtype="q8", layouts=None):
    weights = open_weights(path)
    return load_model(weights, formats_of(weights, dtype), layouts or {}, {"more": np.ones(3, np.float32)})


def same(a, b):
    np.testing.assert_array_equal(a.arena.data, b.arena.data)
    np.testing.assert_array_equal(a.vectors, b.vectors)
    assert a.offsets == b.offsets


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8", "q4"])
def test_kept_weights_are_those_that_were_packed(saved, kept, dtype, monkeypatch):
    first = loaded(saved, dtype)
    assert len(list(kept.iterdir())) == 1
    monkeypatch.setattr("sparseact.engine.load.load_model._parts", None)  # nothing is packed any more
    same(first, loaded(saved, dtype))


def test_another_file_or_layout_is_packed_anew_and_replaces_what_it_should(saved, kept, tmp_path):
    model = tmp_path / "copy"
    shutil.copytree(saved, model)
    dense = loaded(model)
    (old,) = kept.iterdir()
    columns = loaded(model, layouts={"0.down": "columns"})
    assert len(list(kept.iterdir())) == 2
    assert (columns.arena.data[: dense.arena.data.size] != dense.arena.data).any()
    other = tiny_model("qwen2", seed=1)
    other.save_pretrained(model)
    changed = loaded(model)
    assert (changed.arena.data != dense.arena.data).any()
    assert len(list(kept.iterdir())) == 2
    assert not old.exists()


@pytest.mark.parametrize("damage", [lambda whole: whole[:-1], lambda whole: whole + b"?", lambda _: b""])
def test_damaged_bytes_are_packed_again(saved, kept, damage):
    first = loaded(saved)
    (path,) = kept.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    same(first, loaded(saved))
    same(first, loaded(saved))


def test_a_model_in_memory_and_a_small_one_are_not_kept(saved, kept, monkeypatch):
    loaded(tiny_model("qwen2"))
    monkeypatch.setattr(packed, "LEAST", 1 << 30)
    loaded(saved)
    assert not kept.exists()


def test_where_nothing_can_be_written_it_warns_and_loads(saved, tmp_path, kept):
    tmp_path.joinpath("packed").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"packed anew at each load: cannot write .*\(set SPARSEACT_CACHE\)"):
        first = loaded(saved)
    assert first.numbers["0.q"] == 0


def test_what_was_not_read_for_longest_goes(saved, kept, monkeypatch):
    loaded(saved, "f32")
    (longest,) = kept.iterdir()
    os.utime(longest, (1, 1))
    loaded(saved, "q8")
    second = next(path for path in kept.iterdir() if path != longest)
    os.utime(second, (2, 2))
    monkeypatch.setattr(packed, "MOST", second.stat().st_size * 2)
    loaded(saved, "q4")
    assert not longest.exists()
    assert second.exists()
