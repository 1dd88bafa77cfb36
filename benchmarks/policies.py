"""Every policy by level on one ruler: perplexity, KL and agreement against bytes read per token.

Each row is calibrated on the first half of a text and measured on its second half, and on text of another
kind: the built-in questions with answers that the dense model wrote. Rows that are done are not done again.

    python benchmarks/policies.py --model smollm2 --text wikitext2-valid.txt --out runs/policies.jsonl
    python benchmarks/policies_tables.py
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import asdict
from pathlib import Path

import torch

import sparseact as sa
from pages import read_rows
from sparseact.calibration.own_answers import write_text
from sparseact.data import load_text
from sparseact.errors import InputError
from sparseact.evaluation import evaluate
from sparseact.policies import POLICIES, make_policy
from sparseact.utils.environment import describe

LEVELS = (0.1, 0.25, 0.4, 0.5, 0.7)

ANSWER_TOKENS = 1200
ANSWER_SEED = 1
"""Of the answers that are measured on; a calibration on own text has seed 0."""


def main() -> None:
    """Measure what is not measured yet, and print it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="smollm2")
    options.add_argument(
        "--text", required=True, help="a text file: calibration on its first half, measurement on its second"
    )
    options.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    options.add_argument("--levels", nargs="+", type=float, default=LEVELS)
    options.add_argument("--options", type=json.loads, default={}, help="options of the policies, as JSON")
    options.add_argument("--context", type=int, default=512)
    options.add_argument("--windows", type=int, default=8)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--out", type=Path, default=Path("runs/policies.jsonl"))
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    text = load_text(arguments.text)
    calibration, held_out = text[: len(text) // 2], text[len(text) // 2 :]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = read_rows([arguments.out]) if arguments.out.exists() else []
    model, tokenizer = sa.load(arguments.model)
    answers = write_text(model, tokenizer, tokens=ANSWER_TOKENS, seed=ANSWER_SEED)
    for level in arguments.levels:
        for name in arguments.policies:
            key = {"model": arguments.model, "policy": name, "sparsity": level, "options": arguments.options}
            if any(all(row[field] == key[field] for field in key) for row in done):
                continue
            row = key | measure(model, tokenizer, key, calibration, (held_out, answers), arguments)
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                json.dumps({field: row.get(field) for field in (*key, "achieved", "ratio", "kl", "refused")}),
                flush=True,
            )


def measure(model, tokenizer, key, calibration, texts, arguments):  # noqa: ANN001, ANN201 - a script's helper
    """One row: what the recipe cost and what it does on the held-out text and on the answers."""
    started = time.monotonic()
    try:
        recipe = make_policy(key["policy"], key["sparsity"], key["options"]).calibrate(model, tokenizer, calibration)
    except InputError as error:
        return {"refused": str(error)}
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found, on_answers = (
        evaluate(model, tokenizer, text, recipe=recipe, context=arguments.context, limit=limit, progress=False)
        for text, limit in zip(texts, (arguments.windows, None), strict=True)
    )
    return asdict(found) | {
        "ratio": found.perplexity / found.perplexity_dense,
        "answers": asdict(on_answers) | {"ratio": on_answers.perplexity / on_answers.perplexity_dense},
        "calibration_seconds": round(seconds, 1),
        "peak_bytes": peak,
        "recipe": {field: recipe.meta[field] for field in ("calibration", "options") if field in recipe.meta},
        "environment": describe(),
    }


if __name__ == "__main__":
    main()
