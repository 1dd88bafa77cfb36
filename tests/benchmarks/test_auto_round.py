"""The rival that auto-round makes: what it is given, and what is kept."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from sparseact.errors import InputError


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("auto_round")


def test_samples_are_of_the_first_half(script):
    text = "a" * 16 + "b" * 16 + "c" * 40
    assert script.samples(text, 9, tokens=2) == ["a" * 16, "b" * 16]
    assert script.samples(text, 1, tokens=2) == ["a" * 16]
    with pytest.raises(InputError, match="text: 36 characters in its first half are too few for 5 tokens"):
        script.samples(text, 9, tokens=5)


def test_the_file_that_auto_round_writes_is_kept(script, tiny_gguf, tmp_path, monkeypatch):
    """By a Python that writes what it was asked to in place of auto-round."""
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "asked = dict(zip(sys.argv[4::2], sys.argv[5::2]))\n"
        "asked['config'] = json.load(open(os.path.join(asked['--model'], 'config.json')))['hidden_size']\n"
        "asked['data'] = json.load(open(asked['--dataset']))\n"
        "os.makedirs(asked['--output_dir'] + '/deep')\n"
        "json.dump(asked, open(asked['--output_dir'] + '/deep/model.gguf', 'w'))\n"
    )
    python.chmod(0o755)
    text, out = tmp_path / "text.txt", tmp_path / "made" / "rival.gguf"
    text.write_text("abcdefgh" * 4)
    given = ["--model", str(tiny_gguf), "--text", str(text), "--out", str(out), "--tokens", "1", "--samples", "2"]
    monkeypatch.setattr(sys, "argv", ["auto_round.py", *given, "--peers-python", str(python)])
    script.main()
    asked = json.loads(out.read_text())
    assert asked["data"] == [{"text": "abcdefgh"}] * 2
    assert asked["config"] == 64
    assert (asked["--scheme"], asked["--format"], asked["--seqlen"]) == ("GGUF:Q4_0", "gguf:q4_0", "1")
    python.write_text("#!/bin/sh\necho 'No module named auto_round' >&2\nexit 1\n")
    with pytest.raises(SystemExit, match="auto-round cannot make it: No module named auto_round"):
        script.main()
    assert json.loads(out.read_text()) == asked
