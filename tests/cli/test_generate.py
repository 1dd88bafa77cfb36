"""`generate` with either engine, as a user meets it: real calls on a tiny model in a folder."""

import json
import signal
import subprocess
import sys

import pytest

from sparseact.cli import INTERRUPTED, USERS_MISTAKE, main
from sparseact.data import builtin_questions
from sparseact.generation import answer
from sparseact.testing import tiny_model, tiny_tokenizer

GENERATE = ("generate", "--prompt", "Why?", "--max-new-tokens", "12", "--threads", "1")
CPU = (*GENERATE, "--dtype", "f32")  # the engine by default
TORCH = (*GENERATE, "--engine", "torch")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model and a recipe for it."""
    place = tmp_path_factory.mktemp("cli")
    tiny_model("llama").save_pretrained(place / "model")
    tiny_tokenizer().save_pretrained(place / "model")
    (place / "a.txt").write_text("\n".join(row["question"] for row in builtin_questions()))
    arguments = ["--policy", "teal", "--sparsity", "0.5", "--text", str(place / "a.txt"), "--out", str(place / "r")]
    assert main(["calibrate", *arguments, "--model", str(place / "model")]) == 0
    return place


@pytest.fixture
def run(place, capsys, monkeypatch):
    """Run one command in that folder, on its model: (status, standard output, standard error)."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(answer, "PATIENCE", 1e6)  # a busy machine says no more than an idle one

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([*arguments, "--model", "model"])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("recipe", [(), ("--recipe", "r")])
def test_the_engines_write_the_same(run, recipe):
    status, text, err = run(*CPU, *recipe)
    assert (status, run(*TORCH, *recipe)[:2]) == (0, (0, text))
    assert len(text.strip()) > 5
    assert "12 tokens" in err
    assert "device cpu" in err


@pytest.mark.parametrize("command", [TORCH, CPU])
def test_json_has_the_keys_that_are_promised(run, command):
    status, out, _ = run(*command, "--recipe", "r", "--json")
    record = json.loads(out)
    assert status == 0
    promised = {"text", "tokens", "prompt_tokens", "achieved", "bytes_per_token", "model", "recipe", "engine", "device"}
    rates = {"prefill_seconds", "decode_seconds", "tokens_per_second", "density", "head_bytes", "dtype", "threads"}
    rates |= {"acceptance", "lossless"}
    assert record.keys() == promised | rates
    assert (record["tokens"], record["threads"], record["recipe"]) == (12, 1, "r")
    assert record["achieved"] == pytest.approx(0.5, abs=0.1)
    assert record["density"].keys() == {"0", "1", "2"}
    assert record["tokens_per_second"] == pytest.approx(11 / record["decode_seconds"])


@pytest.mark.parametrize("dtype", ["q8", "q4", "bf16", "f32", "file"])
def test_every_type_of_the_engine(run, dtype):
    status, out, _ = run(*GENERATE, "--engine", "cpu", "--dtype", dtype, "--json")
    assert (status, json.loads(out)["dtype"]) == (0, dtype)
    assert json.loads(out)["tokens"] == 12


def test_q8_is_the_default_of_the_engine_and_float32_of_torch(run):
    for arguments, used in [
        ((), ("cpu", "q8")),
        (("--engine", "cpu"), ("cpu", "q8")),
        (TORCH[-2:], ("torch", "float32")),
    ]:
        record = json.loads(run(*GENERATE, *arguments, "--json")[1])
        assert (record["engine"], record["dtype"]) == used


@pytest.mark.parametrize("command", [TORCH, CPU])
def test_statistics(run, command):
    _, text, err = run(*command, "--recipe", "r", "--stats", "--against-dense")
    names = [line.split()[0] for line in err.splitlines()]
    assert names == ["12", "prompt", "answer", "read", "dense", "sparse", "agreement"]
    assert "layers 0 to 2: 0." in err
    dense = run(*command)[1]
    assert text != dense
    record = json.loads(run(*command, "--recipe", "r", "--against-dense", "--json")[1])
    assert record["dense"]["text"].strip() == dense.strip()
    assert (record["dense"]["achieved"], record["dense"]["density"]) == (0, {})


def test_a_lossless_answer_is_the_dense_one(run):
    _, text, err = run(*CPU, "--recipe", "r", "--lossless", "--stats", "--against-dense")
    assert text == run(*CPU)[1]
    assert "drafts " in err
    assert "the same answer" in err


def test_statistics_of_a_dense_run(run):
    _, _, err = run(*CPU, "--stats")
    assert [line.split()[0] for line in err.splitlines()] == ["12", "prompt", "answer"]


def test_who_waits_for_the_compiler_is_told_so(run, monkeypatch):
    monkeypatch.setattr(answer, "PATIENCE", 0.0)
    status, _, err = run(*CPU)
    assert status == 0
    assert err.startswith("sparseact: preparing the engine; the first time on a machine, it is compiled")


@pytest.mark.parametrize("command", [TORCH, CPU])
def test_sampling_and_stop_strings(run, command):
    greedy = run(*command)[1]
    one, two = (run(*command, "--temperature", "1", "--seed", seed)[1] for seed in "12")
    assert len({greedy, one, two}) == 3
    assert run(*command, "--temperature", "1", "--seed", "1")[1] == one
    assert run(*command, "--temperature", "1", "--min-p", "1")[1] == greedy
    assert run(*command, "--repetition-penalty", "5")[1] != greedy
    stop = greedy[5:7]
    assert run(*command, "--stop", "never, ever", "--stop", stop)[1].rstrip("\n") == greedy[: greedy.index(stop)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "cuda"], 'Invalid value "cuda" for --engine. Choose from: "cpu", "torch".'),
        (
            ["--engine", "torch", "--dtype", "q8"],
            "--dtype: unknown type of weights for --engine torch 'q8'. Valid: float32,",
        ),
        (["--engine", "cpu", "--dtype", "float32"], "--engine cpu 'float32'. Did you mean f32? Valid: q8, q4, bf16,"),
        (["--engine", "cpu", "--device", "cuda"], "--device: cuda does not go with --engine cpu"),
        (["--engine", "cpu", "--stop", ""], "--stop: an empty string"),
        (["--engine", "cpu", "--temperature", "-1"], "--temperature: -1.0 is not 0 or between"),
        (["--engine", "cpu", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["--engine", "cpu", "--max-new-tokens", "200"], "context of 128 tokens"),
        (["--engine", "cpu", "--recipe", "none"], "--recipe: none: no readable recipe.json here"),
        (["--against-dense"], "--against-dense: compares a recipe"),
        (["--engine", "torch", "--lossless"], "--lossless: needs --engine cpu, not torch"),
        (["--dtype", "q5"], "for --engine cpu 'q5'"),
        (["--lossless"], "--lossless: a recipe drafts the answer; give one with --recipe"),
        (["--engine", "cpu", "--lossless", "--recipe", "r", "--temperature", "1"], "--lossless: takes the most likely"),
        (["--min-p", "2"], "--min-p: 2.0 is not between 0 and 1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(run, arguments, said):
    status, out, err = run("generate", "--prompt", "Why?", *arguments)
    assert (status, out) == (USERS_MISTAKE, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def torchs(place):
    """A family and a recipe that the engine does not run."""
    model = tiny_model("llama")
    model.config.hidden_act = "mish"  # which the engine has not
    model.save_pretrained(place / "mish")
    tiny_tokenizer().save_pretrained(place / "mish")
    arguments = ["--policy", "r-sparse", "--option", "alpha=0.5", "--sparsity", "0.5", "--text", str(place / "a.txt")]
    assert main(["calibrate", *arguments, "--out", str(place / "low-rank"), "--model", str(place / "model")]) == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "mish"], "no activation 'mish'"),
        (["--model", "model", "--recipe", "low-rank"], "the engine does not run r-sparse"),
        (["--model", "model", "--dtype", "bfloat16"], "not bfloat16"),
    ],
)
def test_torch_is_said_where_it_computes_instead(place, torchs, capsys, monkeypatch, arguments, reason):
    monkeypatch.chdir(place)
    monkeypatch.setattr(answer, "PATIENCE", 1e6)
    assert main([*GENERATE, *arguments]) == 0
    text, err = capsys.readouterr()
    assert err.splitlines()[0].startswith("sparseact: torch computes, not the engine: ")
    assert reason in err.splitlines()[0]
    assert main([*TORCH, *arguments]) == 0
    assert capsys.readouterr().out == text
    assert main([*GENERATE, "--engine", "cpu", *arguments]) == USERS_MISTAKE
    assert capsys.readouterr().err.count("\n") == 1


def test_without_torch_a_line_says_what_needs_it(place, torchs, capsys, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(answer, "find_spec", lambda package: None)
    for arguments, why in [
        (["--model", "mish"], "no activation 'mish'"),
        (["--model", "model", "--engine", "torch"], "sparseact: torch"),
    ]:
        assert main([*GENERATE, *arguments]) == USERS_MISTAKE
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert why in err
        assert err.endswith("torch is not installed; it comes with: pip install 'sparseact[torch]'\n")


IN_PYTHON = """
import sparseact as sa
tokenizer, ends = sa.models.load_tokenizer("model")
with sa.Engine.from_model("model", recipe="r", dtype="f32", threads=1) as engine:
    print(sa.generate(engine, tokenizer, "Why?", max_new_tokens=12, ends=ends).text)
"""


@pytest.mark.parametrize("recipe", [(), ("--recipe", "r"), IN_PYTHON])
def test_the_engine_needs_neither_torch_nor_transformers(place, run, recipe):
    """In a process of its own, which has both: nothing may import them."""
    arguments = (*CPU, *recipe, "--model", "model")
    command = IN_PYTHON if recipe == IN_PYTHON else f"from sparseact.cli import main; main({arguments})"
    said = "import sys; sys.stderr.write(str({'torch', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", f"{command}\n{said}"], check=False, capture_output=True, text=True, cwd=place
    )
    assert done.stderr.endswith("set()"), done.stderr
    assert done.stdout == run(*CPU, *(("--recipe", "r") if recipe == IN_PYTHON else recipe))[1]


def test_ctrl_c_ends_the_answer(place):
    """In a process of its own, with a context and no end that would come first."""
    tiny_model("llama").save_pretrained(place / "long")
    tiny_tokenizer().save_pretrained(place / "long")
    config = json.loads((place / "long" / "config.json").read_text())
    (place / "long" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 400_000}))
    (place / "long" / "generation_config.json").write_text("{}")
    command = [sys.executable, "-m", "sparseact", "generate", "--prompt", "Why?", "--model", str(place / "long")]
    options = ["--engine", "cpu", "--max-new-tokens", "399000", "--threads", "2"]
    heard = {
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    }  # which a shell's background jobs ignore
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **heard) as process:
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED
    assert err.decode().splitlines()[-1] == "sparseact: interrupted; the answer ends where it was"
    assert out.endswith(b"\n")


def test_a_screened_head_is_in_the_statistics(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sparseact.engine.lm_head.cache.cache_folder", lambda: tmp_path)
    status, text, err = run(*CPU, "--screen", "--stats")
    assert (status, text) == run(*CPU)[:2]
    assert "of them: a screen, and the rows it lets through" in err


@pytest.mark.parametrize("wrong", [TORCH, (*CPU, "--temperature", "1"), (*CPU, "--repetition-penalty", "1.1")])
def test_a_screen_is_for_greedy_decoding_by_the_engine(run, wrong):
    status, _, err = run(*wrong, "--screen")
    assert status == USERS_MISTAKE
    assert err.strip().splitlines()[-1].endswith("--engine cpu, temperature 0 and no repetition penalty only")
