"""The folder of a sweep: its columns are those of the schema and the docs, and it outlives its process."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from sparseact.errors import InputError
from sparseact.sweep import Plan, run_sweep
from sparseact.sweep.folder import SweepFolder
from sparseact.sweep.schema import DIAGNOSTICS, SAMPLES, SWEEP, names
from sparseact.testing import tiny_model, tiny_tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
KINDS = {float: "fi", int: "i", bool: "b", str: "OUT"}  # numpy's letters; a csv of whole numbers is read as such


def test_the_files_hold_the_columns_of_the_schema(tmp_path):
    plan = Plan(metrics=("gxo", "random"), units=("both",), sparsity=(0.5,), max_new_tokens=2)
    run_sweep(tiny_model("llama"), tiny_tokenizer(), plan, ["Why?"], tmp_path, progress=False)
    for file, columns in (("sweep.csv", SWEEP), ("samples.parquet", SAMPLES), ("diagnostics.parquet", DIAGNOSTICS)):
        table = pd.read_csv(tmp_path / file) if file.endswith("csv") else pd.read_parquet(tmp_path / file)
        assert sorted(table.columns) == sorted(names(columns))
        for column in columns:
            kind = bool if (file, column.name) == ("samples.parquet", "exact") else column.type
            assert table[column.name].dtype.kind in KINDS[kind], column.name


@pytest.mark.parametrize("columns", [SWEEP, SAMPLES, DIAGNOSTICS])
def test_the_docs_have_a_row_for_each_column(columns):
    head = "| column | type | meaning | range |" + " mean over |" * (columns is SWEEP)
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for column in columns:
        cells = [f"`{column.name}`", column.type.__name__, column.meaning, column.range]
        lines.append("| " + " | ".join(cells + [column.mean_over] * (columns is SWEEP)) + " |")
    table = "\n".join(" ".join(line.split()) for line in lines)
    assert table in "\n".join(" ".join(line.split()) for line in PAGE.splitlines()), f"docs/files.md needs:\n{table}"


def rows(prompt):
    cell = {"metric": "gxo", "units": "mlp", "sparsity": 0.5, "prompt": prompt, "tokens": 3}
    means = dict.fromkeys(("achieved", "agreement", "nll", "nll_dense", "kl", "leak"), 0.1 * prompt)
    return [{**cell, **means, "bleu": 1.0, "exact": False}], [{"prompt": prompt, "value": float("nan")}]


def meta():
    return {"version": 1, "model": {"name": "tiny"}, "plan": {"seed": 0}, "prompts_sha256": "ab"}


def test_a_killed_sweep_has_lost_no_prompt_that_was_done(tmp_path):
    """Nothing is called at the end, as when the process is killed."""
    folder = SweepFolder(tmp_path, meta())
    for prompt in range(7):
        folder.add(prompt, *rows(prompt), seconds=10.0 + prompt)
    assert len(pd.read_parquet(tmp_path / "samples.parquet")) == 4
    again = SweepFolder(tmp_path, meta())
    assert again.done == set(range(7))
    assert again.samples == folder.samples
    assert all(math.isnan(row["value"]) for row in again.diagnostics)
    assert (again.meta["seconds"], again.meta["prompts_done"]) == (16.0, 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("diagnostics.parquet", "meta.json", "samples.parquet", "sweep.csv")
    ]
    assert pd.read_csv(tmp_path / "sweep.csv")["agreement"].item() == pytest.approx(0.3)
    assert len(pd.read_parquet(tmp_path / "diagnostics.parquet")) == 7


def test_what_is_in_the_tables_already_does_not_count_twice(tmp_path):
    """Killed after the tables were written and before the parts were removed."""
    folder = SweepFolder(tmp_path, meta())
    for prompt in range(3):
        folder.add(prompt, *rows(prompt), seconds=1.0)
    part = (tmp_path / "prompts" / "00000002.json").read_bytes()
    folder.write()
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "00000002.json").write_bytes(part)
    assert len(SweepFolder(tmp_path, meta()).samples) == 3


def test_a_damaged_part_is_refused_in_one_line(tmp_path):
    folder = SweepFolder(tmp_path, meta())
    for prompt in range(3):
        folder.add(prompt, *rows(prompt), seconds=1.0)
    (tmp_path / "prompts" / "00000002.json").write_text("[1")
    with pytest.raises(InputError, match="can't be read") as caught:
        SweepFolder(tmp_path, meta())
    assert "\n" not in str(caught.value)


def test_tables_are_written_a_few_times_whatever_the_number_of_prompts(tmp_path, monkeypatch):
    written, write = [], SweepFolder.write
    monkeypatch.setattr(SweepFolder, "write", lambda folder: written.append(len(folder.done)) or write(folder))
    folder = SweepFolder(tmp_path, meta())
    for prompt in range(20):
        folder.add(prompt, *rows(prompt), seconds=1.0)
    folder.write_rest()
    assert written == [1, 2, 4, 8, 16, 20]
    folder.write_rest()  # nothing is missing
    assert len(written) == 6


def test_a_sweep_that_ended_before_its_first_table_was_written_begins_again(tmp_path, monkeypatch):
    def full(*_, **__):
        raise InputError("no space left on the device")

    folder = SweepFolder(tmp_path, meta())
    monkeypatch.setattr("pandas.DataFrame.to_parquet", full)
    with pytest.raises(InputError):
        folder.add(0, *rows(0), seconds=1.0)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["meta.json"]
    again = SweepFolder(tmp_path, meta())
    again.add(0, *rows(0), seconds=1.0)
    assert SweepFolder(tmp_path, meta()).done == {0}


def test_a_damaged_value_in_what_is_kept_is_one_line(tmp_path):
    for number, (name, value) in enumerate((("model", 0.5), ("plan", []), ("seconds", "soon"), ("seconds", None))):
        folder = SweepFolder(tmp_path / str(number), meta())
        folder.add(0, *rows(0), seconds=1.0)
        path = tmp_path / str(number) / "meta.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
        with pytest.raises(InputError, match=r"holds (a run that can't be read|another run)"):
            SweepFolder(tmp_path / str(number), meta())
