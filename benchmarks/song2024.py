"""The runs behind docs/results/song2024.md: the paper's Table 2 on the built-in models.

Questions: the even built-in ones; the odd ones tuned `--correction auto` (tune_correction.py).
Every run resumes where it was interrupted.

    python benchmarks/song2024.py --model smollm2 --limit 24 --out runs/song2024
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

import sparseact as sa
from sparseact.data import load_prompts
from sparseact.models import describe_model
from sparseact.report import write_report
from sparseact.sweep import Plan, run_sweep
from sparseact.sweep.plan import DEFAULT_SPARSITY

METRICS = ("gradient", "magnitude", "snip", "gxo", "corrected-gxo", "random")
MILDER = tuple(round(level / 2, 3) for level in DEFAULT_SPARSITY)
OURS = ("corrected-gxo", "magnitude")

RUNS = {
    "table": Plan(metrics=METRICS),
    "auto": Plan(metrics=OURS[:1], correction="auto", heads_formula="theorem"),
    "milder-heads": Plan(metrics=OURS, units=("both",), heads_sparsity=MILDER),
    "auto-milder-heads": Plan(
        metrics=OURS[:1], units=("both",), heads_sparsity=MILDER, correction="auto", heads_formula="theorem"
    ),
    "bug-compatible": Plan(
        metrics=("gradient", "magnitude", "snip", "gxo", "corrected-gxo"), units=("both",), bug_compatible=True
    ),
}
"""Fisher ranks as SNIP does, so it has no column of its own (tests/test_metrics.py)."""

RUNS["ig"] = Plan(metrics=("ig", *OURS), ig_steps=5)
"""On a third of the questions, with two others on the same ones: it costs 5 passes per layer and kind."""


def main() -> None:
    """Run what is not done yet."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="smollm2")
    options.add_argument("--limit", type=int, default=24)
    options.add_argument("--out", type=Path, default=Path("runs/song2024"))
    options.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = sa.load(arguments.model)
    for name in arguments.runs:
        limit = max(1, arguments.limit // 3) if name == "ig" else arguments.limit
        out = arguments.out / arguments.model / name
        run_sweep(
            model,
            tokenizer,
            RUNS[name],
            load_prompts()[0::2][:limit],
            out,
            model_info=describe_model(arguments.model, model),
            prompts_source="built-in questions, the even ones",
            command=f"python benchmarks/song2024.py --model {arguments.model} --limit {arguments.limit} --runs {name}",
        )
        write_report(out)
        shutil.copy(out / "sweep.csv", arguments.out / f"{arguments.model}-{name}.csv")  # as docs/results keeps it


if __name__ == "__main__":
    main()
