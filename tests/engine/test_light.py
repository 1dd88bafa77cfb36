"""An engine starts and generates without torch, transformers and, where compiled code is kept, Numba."""

import subprocess
import sys

import pytest

from sparseact.policies import SparseAct
from sparseact.testing import tiny_model, tiny_tokenizer

SCRIPT = """
import sys
model, recipe, *blocked = sys.argv[1:]
class Blocker:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
from sparseact.engine.engine import Engine
with Engine.from_model(model, recipe or None, threads=2) as engine:
    engine.prefill([1, 2, 3])
    print(engine.greedy(5))
"""


def generated(*arguments):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A tiny model and a recipe for it."""
    folder = tmp_path_factory.mktemp("light")
    model = tiny_model("llama")
    model.save_pretrained(folder / "model")
    SparseAct(0.5).calibrate(model, tiny_tokenizer(), "a text to calibrate on, " * 50).save(folder / "recipe")
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sparse", [False, True])
def test_an_engine_needs_neither_torch_nor_transformers_nor_numba_again(places, sparse):
    arguments = str(places / "model"), str(places / "recipe") if sparse else ""
    text = generated(*arguments, "torch", "transformers")
    assert text.startswith("[")
    assert generated(*arguments, "torch", "transformers", "numba", "gguf", "scipy", "pandas") == text
