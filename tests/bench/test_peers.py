"""Engines that run what their own tools convert: against transformers where they are installed, and what is said."""

import sys
from pathlib import Path

import numpy as np
import pytest

from sparseact.bench.convert import convert
from sparseact.bench.peers import BUILT, Setup
from sparseact.bench.runner import Runner, RunnerError
from sparseact.bench.session import Work, losses
from sparseact.bench.spec import PEERS, Spec

PYTHON = BUILT.absolute() if BUILT.exists() else Path(sys.executable)
CONVERTED = ("onnxruntime-genai:q8_0", "onnxruntime-genai:f32", "openvino-genai:q8_0", "mistralrs:q8_0")


@pytest.fixture(scope="module")
def text():
    """Tokens that a random model finds neither likely nor unlikely."""
    return Work(np.random.default_rng(0).integers(3, 200, 60).tolist(), prompt=8, tokens=6)


@pytest.fixture(scope="module")
def truth(tiny_gguf, text):
    """Losses of transformers in float32, by phase."""
    spec = Spec("transformers", "f32")
    with Runner(spec, tiny_gguf, threads=1, context=text.context, python=sys.executable) as runner:
        return {phase: losses(runner, text, phase) for phase in ("decode", "prefill")}


@pytest.mark.parametrize("name", CONVERTED)
def test_a_converted_model_is_that_of_its_file(name, tiny_gguf, tmp_path, text, truth):
    spec = Spec.parse(name)
    setup = Setup(str(tiny_gguf), PYTHON, tmp_path)
    if PEERS[spec.engine] not in setup._installed:
        pytest.skip(f"{spec.engine} is not installed for {PYTHON}")
    target = tmp_path / "made"
    convert(spec, PYTHON, tiny_gguf, target)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    options = {"context": text.context, "python": PYTHON, "bytes_per_token": 7.0}
    with Runner(spec, target, threads=1, **options) as runner:
        for phase, expected in truth.items():
            tolerance = 1e-3 if spec.dtype == "f32" else 0.05
            np.testing.assert_allclose(losses(runner, text, phase), expected, atol=tolerance)
        runner.prefill(text.ids[:8])
        first = runner.decode(6)[1]
        runner.prefill(text.ids[:8])
        assert runner.decode(6)[1] == first
        assert set(runner.versions) >= {spec.engine}
        # The head is tied: 260 x 64 of it, two blocks of 64 x (64 + 32 + 32 + 64) + 3 x 64 x 96; a scale for 32 weights
        # of 8 bits, in float32.
        weights = 260 * 64 + 2 * (64 * 192 + 3 * 64 * 96)
        size = {"onnxruntime-genai:q8_0": weights * 36 / 32, "onnxruntime-genai:f32": 4 * weights}.get(name, 7.0)
        assert runner.usage()["bytes_per_token"] == size


@pytest.mark.parametrize("engine", ["onnxruntime-genai", "openvino-genai"])
def test_what_cannot_be_converted_leaves_nothing_and_says_why(engine, tiny_gguf, tmp_path):
    """By a Python without any packages."""
    with pytest.raises(RunnerError) as error:
        convert(Spec(engine, "q8_0"), _bare_python(tmp_path), tiny_gguf, tmp_path / "kept" / "made")
    assert str(error.value).startswith(f"{engine} cannot convert tiny.gguf: ")
    assert "No module named" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "kept").iterdir())


def _bare_python(folder: Path) -> Path:
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    return python


def test_a_converted_model_is_made_once_for_each_engine_and_type(tiny_gguf, tmp_path, monkeypatch):
    from sparseact.bench import peers

    made = []

    def record(spec, python, source, target):
        made.append((str(spec), source.name))
        target.mkdir()

    monkeypatch.setattr(peers, "convert", record)
    setup = Setup(str(tiny_gguf), Path(sys.executable), tmp_path)
    spec = Spec("openvino-genai", "file")
    assert setup.readable(spec) == setup.readable(spec)
    assert setup.readable(Spec("llama.cpp", "file")) == tiny_gguf
    copy = tmp_path / tiny_gguf.name
    copy.write_bytes(tiny_gguf.read_bytes())
    assert Setup(str(copy), Path(sys.executable), tmp_path).readable(spec) != setup.readable(spec)
    assert made == [("openvino-genai:file", "tiny.gguf")] * 2


def test_mistralrs_gets_tokens_as_words(tiny_gguf, tmp_path):
    from tokenizers import Tokenizer

    target = tmp_path / "made"
    convert(Spec("mistralrs", "q8_0"), _bare_python(tmp_path), tiny_gguf, target)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    ids = list(range(260))[::-1]
    assert tokenizer.encode(" ".join(tokenizer.id_to_token(token) for token in ids)).ids == ids
    assert tokenizer.id_to_token(1) == "<|im_start|>"
    assert (target / "model.gguf").read_bytes() == tiny_gguf.read_bytes()


def test_mistralrs_does_not_run_a_vocabulary_with_spaces(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "gemma.gguf", "gemma3")
    writer.add_token_list(["<pad>", "a", "\n\n"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(RunnerError, match=r"mistralrs cannot convert gemma.gguf: it takes text only, and the token"):
        convert(Spec("mistralrs", "file"), Path(sys.executable), tmp_path / "gemma.gguf", tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["gemma.gguf"]
