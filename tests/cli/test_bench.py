"""`bench` as a user meets it: real engines in processes of their own, on a tiny model."""

import json
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest

from sparseact.bench import session
from sparseact.cli import INTERRUPTED, USERS_MISTAKE, main
from sparseact.data import builtin_questions

OPTIONS = {"--text": "a.txt", "--threads": "1", "--prompt-tokens": "16", "--tokens": "3", "--context": "80"}
PROMISED = {
    "runner",
    "dtype",
    "threads",
    "recipe",
    "decode_tokens_per_second",
    "prefill_tokens_per_second",
    "bytes_per_token",
    "peak_memory_bytes",
    "ratio_to_dense",
    "ratio_to",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_gguf):
    """A folder with a text, and a recipe for the tiny model: so sparse that its short columns are gathered."""
    place = tmp_path_factory.mktemp("bench")
    (place / "a.txt").write_text("\n".join(row["question"] for row in builtin_questions()))
    arguments = ["--policy", "teal", "--sparsity", "0.8", "--text", str(place / "a.txt"), "--out", str(place / "r")]
    assert main(["calibrate", *arguments, "--model", str(tiny_gguf)]) == 0
    return place


@pytest.fixture
def run(place, tiny_gguf, capsys, monkeypatch):
    """Run the command in that folder: (status, standard output, standard error)."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(session, "Bandwidth", partial(session.Bandwidth, size=2**20))

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        others = [word for name, value in OPTIONS.items() if name not in arguments for word in (name, value)]
        status = main(["bench", *others, "--model", str(tiny_gguf), *arguments])
        return status, *capsys.readouterr()

    return run


def test_json_is_the_list_that_is_promised(run):
    status, out, _ = run("--dtype", "f32", "--recipe", "r", "--against", "transformers", "--rounds", "1", "--json")
    assert status == 0
    rows = {(row["runner"], row["recipe"]): row for row in json.loads(out)}
    assert rows.keys() == {("engine", None), ("engine", "r"), ("transformers", None)}
    assert all(row.keys() >= PROMISED for row in rows.values())
    dense, sparse, torch = rows["engine", None], rows["engine", "r"], rows["transformers", None]
    assert (dense["ratio_to_dense"], torch["ratio_to_dense"], torch["ratio_to"]) == (1, None, {"transformers:f32": 1})
    assert sparse["ratio_to_dense"] == pytest.approx(
        sparse["decode_tokens_per_second"] / dense["decode_tokens_per_second"]
    )
    assert dense["ratio_to"].keys() == {"transformers:f32"}
    assert sparse["bytes_per_token"] < dense["bytes_per_token"]
    assert dense["perplexity"] == pytest.approx(torch["perplexity"], rel=1e-3)
    assert sparse["perplexity"] == pytest.approx(sparse["perplexity_reference"], rel=0.05)
    assert {row["threads"] for row in rows.values()} == {1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dtype", "q9"], "--dtype: unknown type 'q9'"),
        (["--recipe", "nowhere"], "--recipe: nowhere: no readable recipe.json"),
        (["--against", "lama.cpp"], "Did you mean llama.cpp?"),
        (["--against", "llama.cpp", "--peers-python", "no-python"], "llama.cpp is not installed for no-python"),
        (["--against", "ik_llama.cpp", "--peers-python", sys.executable], "pip install ik-llama-cpp-python"),
        (["--text", "b.txt"], "--text: no such file: b.txt"),
        (["--context", "400000"], "--context 400000 is more than that"),
        (["--context", "40"], "--context: 40 tokens are too few"),
        (["--device", "cuda"], "--device: cuda does not go with bench"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_mistakes_are_one_line(run, arguments, said):
    status, out, err = run(*arguments)
    assert (status, out) == (USERS_MISTAKE, "")
    assert said in err.splitlines()[-1]


def test_a_recipe_of_another_model_is_a_mistake(run, place):
    from sparseact.policies import TEAL
    from sparseact.testing import tiny_model, tiny_tokenizer

    TEAL(0.5).calibrate(tiny_model("llama"), tiny_tokenizer(), "the quick brown fox jumps " * 80).save(place / "other")
    status, out, err = run("--recipe", "other")
    assert (status, out) == (USERS_MISTAKE, "")
    assert "calibrate" in err.splitlines()[-1]


def test_ctrl_c_ends_it_and_its_processes(place, tiny_gguf):
    options = [word for pair in OPTIONS.items() for word in pair]
    command = [sys.executable, "-m", "sparseact", "bench", *options, "--model", str(tiny_gguf)]
    with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        workers = _children_once_started(process)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == INTERRUPTED
    assert said.splitlines()[-1].startswith("sparseact: interrupted;")
    assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers)


def _children_once_started(process):
    while process.poll() is None:
        if children := psutil.Process(process.pid).children():
            return children
        time.sleep(0.05)
    raise AssertionError("it ended before it started a worker")
