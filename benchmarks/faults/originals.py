"""Real files of every kind that a command reads, small: models, texts, prompts, recipes, a sweep that was stopped."""

from __future__ import annotations

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests" / "helpers"))

SWEEP = ("sweep", "--metrics", "gxo,magnitude", "--units", "mlp", "--sparsity", "0.5", "--max-new-tokens", "3")
CALIBRATE = ("calibrate", "--policy", "teal", "--sparsity", "0.5")
TRAIN = ("train", "--method", "first-look", "--tokens", "128", "--window", "32", "--checkpoint-every", "1")
SUFFIXES = ("txt", "csv", "tsv", "jsonl", "parquet")


def make_originals(folder: Path) -> None:
    """Write them; meant for a process of its own, for torch and pyarrow start threads here."""
    import pandas as pd

    from sparseact.cli import main
    from sparseact.data import builtin_questions
    from sparseact.testing import tiny_model, tiny_tokenizer

    import_module("tiny_gguf").write_tiny_gguf(folder / "model.gguf")
    tiny_model("llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    table = pd.DataFrame({"question": [row["question"][:24] for row in builtin_questions()]})
    (folder / "text.txt").write_text("\n".join(table["question"]) + "\n", encoding="utf-8")
    table.to_csv(folder / "text.csv", index=True)
    table.to_csv(folder / "text.tsv", index=True, sep="\t")
    table.to_json(folder / "text.jsonl", orient="records", lines=True)
    table.to_parquet(folder / "text.parquet")
    model, text = ("--model", str(folder / "model")), ("--text", str(folder / "text.txt"))
    _done(main([*CALIBRATE, *text, "--out", str(folder / "recipe"), *model]))
    prompts = ("--prompts", str(folder / "text.csv"), "--column", "question", "--limit", "3", "--no-report")
    _done(main([*SWEEP, *prompts, "--out", str(folder / "sweep"), *model]))
    _leave_a_prompt_undone(folder / "sweep")
    # A run of which nothing but its checkpoint was written yet.
    _done(main([*TRAIN, *text, "--out", str(folder / "whole"), *model]))
    if (folder / "whole" / "checkpoint").exists():
        shutil.copytree(folder / "whole" / "checkpoint", folder / "train" / "checkpoint")
    shutil.rmtree(folder / "whole")


def _done(status: int) -> None:
    if status:
        raise SystemExit("the whole files are refused")


def _leave_a_prompt_undone(folder: Path) -> None:
    """As if the process had ended when two prompts were done, the second in a file of its own."""
    import pandas as pd

    tables = {}
    for name in ("samples", "diagnostics"):
        tables[name] = pd.read_parquet(folder / f"{name}.parquet")
        tables[name][tables[name]["prompt"] == 0].to_parquet(folder / f"{name}.parquet", index=False)
    rows = [json.loads(tables[name][tables[name]["prompt"] == 1].to_json(orient="records")) for name in tables]
    (folder / "prompts").mkdir()
    (folder / "prompts" / "00000001.json").write_text(json.dumps([1, 1.0, *rows]))
