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
        (["--density", "0.5"], "--density: goes with --shape"),
    ],
)
def test_mistakes_are_one_line(run, arguments, said):
    status, out, err = run(*arguments)
    assert (status, out) == (USERS_MISTAKE, "")
    assert said in err.splitlines()[-1]


def bench_shape(*arguments: str) -> int:
    """The command on a shape, with little to do unless asked for."""
    least = {"--shape": "smollm2-135m", "--threads": "1", "--prompt-tokens": "4", "--tokens": "2", "--rounds": "1"}
    return main(["bench", *arguments, *(word for pair in least.items() if pair[0] not in arguments for word in pair)])


def test_a_shape_is_measured_dense_and_by_every_rule_without_a_perplexity(capsys, monkeypatch):
    monkeypatch.setattr(session, "Bandwidth", partial(session.Bandwidth, size=2**20))
    assert bench_shape("--density", "0.25", "--json") == 0
    rows = {row["rule"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {None, "gate", "guess", "inputs"}
    assert all(row.keys() >= PROMISED for row in rows.values())
    assert {row["perplexity"] for row in rows.values()} == {None}
    assert {row["density"] for name, row in rows.items() if name} == {0.25}
    for row in rows.values():
        assert row["ratio_to_dense"] == pytest.approx(
            row["decode_tokens_per_second"] / rows[None]["decode_tokens_per_second"]
        )
        assert row["processor_seconds_per_token"] > 0
        assert ("joules_per_token" in row, "energy" in row) == (True, True)
    # 576 x 960 of attention and 3 x 576 x 1536 of the MLP in 30 layers, and a head of 49,152 x 576, at 34 bytes for 32.
    attention, part, head = 30 * 576 * (576 + 2 * 192 + 576), 30 * 576 * 1536, 49152 * 576
    assert rows[None]["bytes_per_token"] == pytest.approx((attention + 3 * part + head) * 34 / 32, rel=1e-3)
    assert rows["gate"]["bytes_per_token"] == pytest.approx((attention + 1.5 * part + head) * 34 / 32, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "qwen4"], "--shape: unknown shape 'qwen4'"),
        (["--density", "1.5"], "--density: 1.5 is not between 0 and 1"),
        (["--dtype", "file"], "--dtype: file is no type of random weights"),
        (["--against", "transformers"], "--shape: has random weights"),
        (["--tokens", "9000"], "--tokens: a prompt and 9004 tokens are more than the shape's 8192"),
    ],
)
def test_mistakes_about_shapes_are_one_line(capsys, arguments, said):
    assert bench_shape(*arguments) == USERS_MISTAKE
    assert said in capsys.readouterr().err.splitlines()[-1]


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
