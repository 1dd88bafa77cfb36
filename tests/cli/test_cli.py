"""The command line as a user meets it: pages, errors, exit codes, what goes to which stream."""

import dataclasses
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sparseact
from sparseact.cli import INTERRUPTED, OUR_FAULT, PIPE_CLOSED, USERS_MISTAKE, app, main
from sparseact.errors import InputError

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sparseact", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture
def failing_command():
    """Give the application a command `fail` that raises what the test wants."""
    raised: list[BaseException] = []

    def fail() -> None:
        raise raised[0]

    app.command(fail)
    yield raised.append
    del app["fail"]


def test_python_dash_m_prints_the_version():
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{sparseact.__version__}\n", "")


def test_the_installed_script_is_the_same_program():
    script = Path(sys.executable).with_name("sparseact")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{sparseact.__version__}\n"


def test_without_a_command_the_help_page_is_printed():
    done = run()
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("models", "fetch", "sweep", "score"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["swep"], 'Unknown command "swep". Did you mean "sweep"?'),
        (["--verbos"], "Unknown option: --verbos"),
        (["sweep", "--metric", "gxo"], "Unknown option: --metric. Did you mean --metrics?"),
        (["sweep", "--sparsity", "0.5,x"], "--sparsity: 'x' is not a number"),
        (["sweep", "--sparsity", "0.5,,0.7"], "--sparsity: '' is not a number"),
        (["sweep", "--metrics", "gxo,"], "--metrics: an empty name in the list 'gxo,'"),
        (["sweep", "--metrics"], "--metrics requires an argument"),
        (["sweep", "--correction", "high"], "--correction: 'high' is neither a number nor auto"),
        (["sweep", "--heads-formula", "theorm"], 'Did you mean "theorem"?'),
        (["sweep", "--limit", "0"], 'Invalid value "0" for --limit. Must be >= 1.'),
        (["sweep", "--threads", "two"], "--threads"),
        (["sweep", "stray"], "Unexpected argument 'stray'"),
        (["score"], "--prompt requires an argument"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error_and_exit_2(capsys, arguments, expected):
    assert main(arguments) == USERS_MISTAKE == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert err.count("\n") == 1
    assert err.endswith("\n")


def test_an_input_error_of_the_library_is_printed_as_it_is(capsys, failing_command):
    failing_command(InputError("questions.csv: no column 'question'.\n Columns: text."))
    assert main(["fail"]) == USERS_MISTAKE
    assert capsys.readouterr().err == "sparseact: questions.csv: no column 'question'. Columns: text.\n"


def test_our_fault_is_one_line_and_exit_1(capsys, failing_command, monkeypatch):
    monkeypatch.delenv("SPARSEACT_DEBUG", raising=False)
    failing_command(ZeroDivisionError("float division\nby zero"))
    assert main(["fail"]) == OUR_FAULT == 1
    err = capsys.readouterr().err
    assert err.startswith("sparseact: internal error: ZeroDivisionError: float division by zero; please report it;")
    assert err.count("\n") == 1


def test_the_traceback_is_there_for_who_asks(capsys, failing_command, monkeypatch):
    monkeypatch.setenv("SPARSEACT_DEBUG", "1")
    failing_command(ZeroDivisionError("float division"))
    assert main(["fail"]) == OUR_FAULT
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_missing_extra_is_named(capsys, failing_command):
    failing_command(ModuleNotFoundError("No module named 'pandas'", name="pandas"))
    assert main(["fail"]) == USERS_MISTAKE
    assert capsys.readouterr().err == (
        "sparseact: pandas is not installed; it comes with: pip install 'sparseact[sweep]'\n"
    )


def test_ctrl_c_says_what_is_kept(capsys, failing_command):
    stop = KeyboardInterrupt()
    stop.add_note("what is done is kept in runs/sweep, and the same command goes on from there")
    failing_command(stop)
    assert main(["fail"]) == INTERRUPTED == 130
    assert capsys.readouterr().err.startswith("sparseact: interrupted; what is done is kept in runs/sweep")


def test_a_reader_that_has_gone_is_no_error():
    """The read end of the pipe is closed before the program writes, as `| head -0` does."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sparseact", "models"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (PIPE_CLOSED, "")


def test_json_is_the_only_thing_on_standard_output(capsys):
    assert main(["models", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    names = {row["name"] for row in record["models"]}
    assert {"smollm2", "gemma3"} <= names


def test_what_a_library_prints_does_not_reach_standard_output(capsys, monkeypatch):
    from sparseact import models

    def noisy() -> list:
        sys.stdout.write("loading ...\n")
        return []

    monkeypatch.setattr(models, "builtin_models", noisy)
    assert main(["models", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"models": []}
    assert err == "loading ...\n"


def test_models_lists_name_licence_and_where(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["smollm2", "gemma3"]


def test_fetch_of_an_unknown_model_names_the_built_in_ones(capsys):
    assert main(["fetch", "smolm2"]) == USERS_MISTAKE
    err = capsys.readouterr().err
    assert "smolm2" in err
    assert "Did you mean smollm2?" in err


def test_completion_can_be_installed():
    assert "complet" in app.generate_completion(shell="bash")


def test_the_defaults_are_those_of_the_library():
    """An option that is left out means the same on the command line as in Python."""
    from sparseact.attribution import attribute_batch
    from sparseact.cli.score import score
    from sparseact.cli.sweep import sweep
    from sparseact.sweep import Plan

    offered = inspect.signature(sweep).parameters
    planned = {field.name: field.default for field in dataclasses.fields(Plan) if field.name != "seed"}
    assert {name: offered[name].default for name in planned} == planned

    asked = inspect.signature(attribute_batch).parameters
    shown = inspect.signature(score).parameters
    common = (asked.keys() & shown.keys()) - {"model", "prompt"}
    assert common >= {"metric", "max_new_tokens", "correction", "heads_formula", "ig_steps", "chat"}
    assert {name: shown[name].default for name in common} == {name: asked[name].default for name in common}


def test_the_help_pages_of_the_docs_are_current():
    spec = importlib.util.spec_from_file_location("help_pages", ROOT / "scripts" / "help_pages.py")
    help_pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(help_pages)
    assert help_pages.PAGE.read_text(encoding="utf-8") == help_pages.all_pages(), "run: make pages"
