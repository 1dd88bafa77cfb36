"""Rows of a measurement become the tables of a results page."""

import importlib
from pathlib import Path

import pandas as pd
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("policies_tables")


def row(policy, sparsity, ratio, tokens=99, answers=50):
    measured = {"achieved": sparsity, "bytes_per_token": 1e8, "kl": 0.25, "agreement": 0.75}
    measured |= {"tokens": tokens, "context": 512}
    own_text = {"ratio": ratio + 1, "kl": 0.5, "achieved": sparsity, "tokens": answers}
    return {"policy": policy, "sparsity": sparsity, "ratio": ratio, "answers": own_text} | measured


def test_policies_stand_by_their_loss_and_what_was_refused_says_so(tables):
    rows = [row("teal", 0.4, 1.2), row("sparseact", 0.4, 1.05), row("teal", 0.7, 3.0, tokens=88)]
    rows.append({"policy": "larosa", "sparsity": 0.7, "refused": "--sparsity: too high"})
    assert tables.by_level(rows).splitlines()[2:] == [
        "| `sparseact` | 1.050 |  |",
        "| `teal` | 1.200 | 3.000 |",
        "| `larosa` |  | out of reach |",
        "| *tokens* | 99 | 88 |",
    ]
    assert tables.in_full(rows).splitlines()[2] == (
        "| `sparseact` | 0.4 | 0.400 | 100 | 1.050 | 0.250 | 0.750 | 2.050 | 0.500 | 0.400 | 99, 50 |"
    )


def test_rows_of_other_windows_are_marked_and_an_interval_is_shown(tables):
    rows = [row("teal", 0.4, 1.2), row("wina", 0.4, 1.3), row("sparseact", 0.4, 1.1, tokens=88)]
    rows[0]["ratio_interval"], rows[1]["answers"]["tokens"] = [1.15, 1.26], 40
    assert tables.by_level(rows).splitlines()[2:] == [
        "| `sparseact` | 1.100† |",
        "| `teal` | 1.200 |",
        "| `wina` | 1.300 |",
        "| *tokens* | 99 |",
        "",
        tables.OTHER_WINDOWS,
    ]
    by_policy = [line.split(" | ") for line in tables.in_full(rows).splitlines()[2:5]]
    assert [(cells[4], cells[7]) for cells in by_policy] == [
        ("1.100†", "2.100"),
        ("1.200 (1.150 to 1.260)", "2.200"),
        ("1.300", "2.300†"),
    ]
    (line,) = [line for line in tables.headline({"smollm2": rows}).splitlines() if "40%" in line]
    assert line == "| SmolLM2-135M-Instruct | 40% | 1.100† | 1.200 | 1.300 |"


def test_a_page_is_filled_between_its_marks_and_nowhere_else(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- one -->\nold\n<!-- end -->\nafter\n")
    importlib.import_module("pages").fill(page, {"one": "new\n", "two": "lost\n"})
    assert page.read_text() == "before\n<!-- one -->\nnew\n<!-- end -->\nafter\n"
    assert capsys.readouterr().out == "no place for two\n"


def test_costs_stand_side_by_side(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    costs = [
        {"policy": "teal", "model": model, "seconds": 30.2, "cpu_seconds": 55.0, "peak_bytes": 4e9}
        for model in ("smollm2", "gemma3")
    ]
    assert (
        importlib.import_module("calibration").table(costs).splitlines()[-1]
        == "| `teal` | 30 | 55 | 4.0 | 30 | 55 | 4.0 |"
    )


def test_rows_of_fewer_questions_are_marked_and_stand_beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    fields = ["metric", "units", "sparsity", "achieved", "agreement", "prompts", "tokens"]

    def run(prompts, rows):
        return pd.DataFrame(
            [[name, "both", 0.5, 0.48, share, prompts, 16 * prompts] for name, share in rows], columns=fields
        )

    runs = {
        "table": run(24, [("magnitude", 0.6), ("corrected-gxo", 0.9)]),
        "ig": run(8, [("magnitude", 0.5), ("ig", 0.7)]),
    }
    assert importlib.import_module("song2024_tables").grid(runs, "both", "agreement", 2).splitlines()[1:] == [
        "| both, requested sparsity | 0.5 |",
        "|---|---|",
        "| achieved | 0.480 |",
        "| corrected-gxo | 0.90 |",
        "| magnitude | 0.60 |",
        "| ig† | 0.70 |",
        "| magnitude† | 0.50 |",
        "",
        "† On the first 8 of the questions, 128 tokens: to be compared with each other, not with the rows of all 384.",
    ]
