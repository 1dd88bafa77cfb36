"""How attribution scores change after deactivation, over several questions (docs/results/interdependency.md).

The same measurement as `sparseact score --interdependency`, pooled over questions, and for several metrics
that choose what is switched off. A line of JSON for each change of a layer and each case is kept.

    python benchmarks/interdependency.py --threads 1
    python benchmarks/interdependency.py --threads 1 --metrics gxo --prompts 2 --cases 64 --max-new-tokens 6   # minutes
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

import sparseact as sa
from pages import read_rows
from sparseact.attribution import Interdependency, measure_interdependency
from sparseact.attribution.interdependency_result import Case
from sparseact.data import load_prompts
from sparseact.utils.files import write_atomically

METRICS = ("gxo", "corrected-gxo", "magnitude", "random")
BOUNDS = {
    "inside_lemma": ("error of the next layer inside the bound of Lemma 3.1", ".0%"),
    "later_inside_lemma": ("largest error of any later layer inside it", ".0%"),
    "inside_theorem": ("error of the next layer inside the bound of Theorem 3.3", ".0%"),
    "later_inside_theorem": ("largest error of any later layer inside it", ".0%"),
    "median_error_over_lemma": ("error of the next layer / lemma's bound, median", ".2f"),
    "median_later_error_over_lemma": ("largest of any later layer / lemma's bound, median", ".2f"),
    "median_error_over_theorem": ("error of the next layer / theorem's bound, median", ".3f"),
    "median_later_error_over_theorem": ("largest of any later layer / theorem's bound, median", ".3f"),
}


def main() -> None:
    """Print one table per metric; the cases do not depend on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=METRICS)
    parser.add_argument("--prompts", type=int, default=6, help="how many of the built-in questions")
    parser.add_argument("--max-new-tokens", type=int, default=12)
    parser.add_argument("--cases", type=int, default=128, help="per question and kind of unit")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/interdependency.jsonl"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model, tokenizer = sa.load(options.model, device="cpu")
    rows = []
    for metric in options.metrics:
        cases = options.cases if metric == options.metrics[0] else 1  # drawn at random, whatever the metric
        parts = []
        for seed, question in enumerate(load_prompts()[: options.prompts]):
            scores = sa.attribute(
                model, tokenizer, question, metric=metric, max_new_tokens=options.max_new_tokens, seed=seed
            )
            parts.append(measure_interdependency(model, scores, cases=cases, seed=seed))
            of_all = {"model": options.model, "metric": metric, "question": seed}
            rows += [of_all | {"row": "change"} | asdict(change) for change in parts[-1].changes]
            if cases > 1:
                rows += [of_all | {"row": "case"} | asdict(case) for case in parts[-1].cases]
        pooled = Interdependency(
            [change for part in parts for change in part.changes], [case for part in parts for case in part.cases]
        )
        text = pooled.as_text()
        print(f"{metric}: {text if cases > 1 else text.split('one unit off')[0].strip()}\n", flush=True)
    with write_atomically(options.out) as path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def places(files: Sequence[Path]) -> dict[str, str]:
    """The table of bounds of the page, by the name of its place."""
    rows = read_rows(files)
    cases = [row for row in rows if row["row"] == "case"]
    return {"later layers": bounds([Case(**{name: row[name] for name in Case.__annotations__}) for row in cases])}


def bounds(cases: Sequence[Case]) -> str:
    """How often errors are inside the paper's bounds, by kind of units, shares with twice their standard error."""
    kinds = list(dict.fromkeys(case.units for case in cases))
    found = {kind: Interdependency([], [case for case in cases if case.units == kind]).bounds(kind) for kind in kinds}
    names = {"mlp": "neurons", "heads": "heads"}
    lines = [f"| | {' | '.join(names[kind] for kind in kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    lines.append(f"| cases | {' | '.join(str(found[kind]['cases']) for kind in kinds)} |")
    for key, (label, form) in BOUNDS.items():
        cells = [f"{found[kind][key]:{form}}{_error(found[kind][key], found[kind]['cases'], form)}" for kind in kinds]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _error(share: float, cases: float, form: str) -> str:
    """Of a share; medians have none here."""
    return f" ± {2 * (share * (1 - share) / cases) ** 0.5:.0%}" if form.endswith("%") else ""


if __name__ == "__main__":
    main()
