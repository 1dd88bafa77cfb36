"""Compiled code from Python: kept, found again, made anew where it is damaged, and named by what it is made of."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import sparseact
from sparseact.engine.simd import entry as entries
from sparseact.engine.simd.entry import Call, Entry, _digest, words_of

FIND = "simd.reduce.find_highest"
X = np.float32([3, 9, 4, 9, 1])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for compiled code, empty."""
    monkeypatch.setattr(entries, "_folder", lambda: tmp_path / "kept")
    return tmp_path / "kept"


class Pair(NamedTuple):
    numbers: np.ndarray
    scale: np.float32


def test_values_are_taken_apart_into_words():
    x = np.zeros((2, 3), np.int16)
    where = x.ctypes.data
    assert list(words_of(x)) == [0, 0, 6, 2, where, 2, 3, 6, 2]
    assert list(words_of(Pair(x[0], np.float32(1)))) == [0, 0, 3, 2, where, 3, 2, 0x3F800000]
    assert [list(words_of(value)) for value in (None, True, -5, 0.5)] == [[0], [1], [-5], [0x3FE0000000000000]]


def test_code_is_compiled_once_and_then_read(folder, monkeypatch):
    assert Entry(FIND)(X, 0, 5) == 1
    (kept,) = folder.iterdir()
    before = kept.stat().st_mtime_ns
    monkeypatch.setitem(sys.modules, "sparseact.engine.simd.jit", None)  # an import of it fails
    assert Entry(FIND)(X, 2, 5) == 3
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", [lambda code: code[:-1], lambda code: code[:99] + b"?" + code[100:], lambda _: b""])
def test_damaged_code_is_made_again(folder, damage):
    Entry(FIND)(X, 0, 5)
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert Entry(FIND)(X, 0, 5) == 1
    assert kept.read_bytes() == whole


def test_where_nothing_can_be_kept_it_warns_once_and_runs(folder):
    folder.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=f"cannot write {folder}: the engine is compiled anew in every process"):
        assert Entry(FIND)(X, 0, 5) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Entry(FIND)(X, 2, 5) == 3


def test_a_call_is_repeated_with_other_arguments(folder):
    call = Call(Entry(FIND), (X.copy(), 0, 5))
    assert call() == 1
    call.set(1, 2)
    assert call() == 3
    call.set(0, np.float32([0, 0, 0, 0, 7]))
    assert call() == 4


def test_editing_any_file_that_compiled_code_reaches_changes_the_digest(tmp_path):
    """What it reaches is what Python has imported once the compiled functions are there."""
    script = (
        "import sys, sparseact.engine.forward.step, sparseact.engine.forward.verify\n"
        "import sparseact.engine.quant.dequant_transposed\n"
        "print(*(module.__file__ for name, module in sys.modules.items() if name.partition('.')[0] == 'sparseact'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    source = Path(sparseact.__file__).parent
    home = tmp_path / "sparseact"
    shutil.copytree(source, home, ignore=shutil.ignore_patterns("__pycache__"))
    reached = [home / Path(name).relative_to(source) for name in done.stdout.split()]
    assert home / "engine/simd/vectors.py" in reached
    assert home / "models/formats.py" in reached
    reached.append(home / "engine/simd/entry.py")
    before = _digest(home)
    assert before == _digest(source)
    missed = []
    for path in reached:
        text = path.read_text(encoding="utf-8")
        path.write_text(text + "\n# edited\n", encoding="utf-8")
        # A package's own file says nothing but what the package is for, or names its parts to Python.
        if _digest(home) == before and path.name != "__init__.py":
            missed.append(str(path))
        path.write_text(text, encoding="utf-8")
    assert missed == []
