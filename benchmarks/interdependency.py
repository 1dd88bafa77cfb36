"""How attribution scores change after deactivation, over several questions (docs/results/interdependency.md).

The same measurement as `sparseact score --interdependency`, pooled over questions, and for several metrics
that choose what is switched off.

    python benchmarks/interdependency.py --threads 1
"""

from __future__ import annotations

import argparse

import torch

import sparseact as sa
from sparseact.attribution import Interdependency, measure_interdependency
from sparseact.data import load_prompts

METRICS = ("gxo", "corrected-gxo", "magnitude", "random")


def main() -> None:
    """Print one table per metric; the cases do not depend on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--prompts", type=int, default=6, help="how many of the built-in questions")
    parser.add_argument("--max-new-tokens", type=int, default=12)
    parser.add_argument("--cases", type=int, default=128, help="per question and kind of unit")
    parser.add_argument("--threads", type=int, help="threads of torch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model, tokenizer = sa.load(options.model, device="cpu")
    for metric in METRICS:
        cases = options.cases if metric == METRICS[0] else 1  # the cases are drawn at random, whatever the metric
        parts = []
        for seed, question in enumerate(load_prompts()[: options.prompts]):
            scores = sa.attribute(
                model, tokenizer, question, metric=metric, max_new_tokens=options.max_new_tokens, seed=seed
            )
            parts.append(measure_interdependency(model, scores, cases=cases, seed=seed))
        pooled = Interdependency(
            [change for part in parts for change in part.changes], [case for part in parts for case in part.cases]
        )
        text = pooled.as_text()
        print(f"{metric}: {text if cases > 1 else text.split('one unit off')[0].strip()}\n", flush=True)


if __name__ == "__main__":
    main()
