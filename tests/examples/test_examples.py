"""Every example runs, on a tiny model, and says what it promises."""

import importlib.util
import sys
from pathlib import Path

import pytest

from sparseact import attribution
from sparseact.data import builtin_questions
from sparseact.models import families
from sparseact.testing import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example in a folder of its own: what it printed."""

    def run(name: str, *arguments: str) -> str:
        path = ROOT / "examples" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        monkeypatch.chdir(tmp_path)
        spec.loader.exec_module(module)
        module.main()
        return capsys.readouterr().out

    return run


def test_attribute_and_plot(run, model, tmp_path):
    said = run("attribute_and_plot", "--model", model, "--max-new-tokens", "4", "--out", "picture.png")
    assert "corrected-gxo: keeps 100% of the neurons" in said
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_calibrate_and_evaluate(run, model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(row["question"] for row in builtin_questions()))
    said = run("calibrate_and_evaluate", "--model", model, "--text", str(text), "--sparsity", "0.5")
    rows = [line.split() for line in said.splitlines()[1:4]]
    assert [row[0] for row in rows] == ["sparseact", "teal", "cats"]
    assert all(float(row[4].rstrip("%")) == pytest.approx(50, abs=8) for row in rows)
    assert {path.parent.name for path in (tmp_path / "recipes").glob("*/recipe.json")} == {"sparseact", "teal", "cats"}


def test_run_the_engine(run, model):
    said = run("run_the_engine", "--model", model, "--dtype", "f32", "--max-new-tokens", "4")
    assert "MB of weights read for each" in said
    assert said.count("has logit") == 4


def test_add_a_policy(run, model):
    said = run("add_a_policy", "--model", model)
    assert "gated weight bytes not read" in said


def test_add_a_metric(run, model, monkeypatch):
    monkeypatch.setattr(attribution, "METRICS", dict(attribution.METRICS))
    monkeypatch.setattr(attribution.registry, "METRICS", attribution.METRICS)
    attribution.registry.known_metrics.cache_clear()
    said = run("add_a_metric", "--model", model, "--max-new-tokens", "4")
    attribution.registry.known_metrics.cache_clear()
    assert said.count("of the neurons that gxo keeps too") == 3


def test_add_a_family(run, monkeypatch):
    monkeypatch.setattr(families, "BUILTIN", dict(families.BUILTIN))
    said = run("add_a_family")
    assert "mlp.0: 48 units, the input of model.layers.0.mlp.c_proj" in said
    assert float(said.split()[-3]) < 1e-4


def test_every_example_is_short_tested_and_documented():
    tested = Path(__file__).read_text(encoding="utf-8")
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    for path in EXAMPLES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 60, path.name
        assert f"def test_{path.stem}(" in tested
        assert f"examples/{path.name}" in pages, f"no page names examples/{path.name}"
