"""The table of what a little training makes of each arm."""

import importlib
from pathlib import Path


def test_an_arm_is_a_row_with_what_was_before_and_after(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    trained_arms = importlib.import_module("trained_arms")
    of = {"tokens": 511}
    rows = [
        {
            "arm": "pruned",
            "seed": seed,
            "lr": 2e-4,
            "before": {"wiki": {"factor": 6.545, "kl": 1.9866, **of}},
            "after": {"wiki": {"factor": 2.389, "kl": 1.0214, **of}, "plays": {"factor": 2.5, "kl": 1.1, **of}},
        }
        for seed in (0, 1)
    ]
    assert trained_arms.table(rows).splitlines() == [
        "| arm | rate | wiki: perplexity, KL | plays: perplexity, KL |",
        "|---|---|---|---|",
        "| half of the neurons pruned for good | 2e-04 | x6.545, 1.987 → x2.389, 1.021 | x2.500, 1.100 |",
        "| half of the neurons pruned for good, seed 1 | 2e-04 | x6.545, 1.987 → x2.389, 1.021 | x2.500, 1.100 |",
    ]
