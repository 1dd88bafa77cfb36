"""Which factor on the corrective term keeps most, for neurons and for heads (`--correction auto`).

Runs the odd built-in questions; docs/results/song2024.md reports on the even ones.

    python benchmarks/tune_correction.py --model smollm2 --limit 12
"""

from __future__ import annotations

import argparse
import json
from itertools import product

import torch

import sparseact as sa
from sparseact.attribution import attribute_in_one_pass
from sparseact.attribution.methods.corrected_gxo import CorrectedGxO
from sparseact.data import encode_prompt, load_prompts
from sparseact.evaluation import compare, second_choices
from sparseact.masked.decoding import decode_greedily, prefill, stop_tokens, teacher_force
from sparseact.masked.selectors import ranks
from sparseact.recipes.selectors import keep_count
from sparseact.sites import find_sites, on_units

SCALES = (1, 2, 4, 6, 8, 12, 16, 24)
LEVELS = {"mlp": (0.5, 0.7, 0.8, 0.9), "heads": (0.2, 0.4, 0.5, 0.6, 0.8)}
FORMULAS = {"mlp": ("released",), "heads": ("released", "theorem")}


def main() -> None:
    """Print the two tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="smollm2")
    options.add_argument("--limit", type=int, default=12)
    options.add_argument("--max-new-tokens", type=int, default=16)
    arguments = options.parse_args()
    model, tokenizer = sa.load(arguments.model)
    prompts = load_prompts()[1::2][: arguments.limit]
    for kind in ("mlp", "heads"):
        table, tokens = tune(model, tokenizer, prompts, kind, arguments.max_new_tokens)
        print(json.dumps({"model": arguments.model, "units": kind, "prompts": len(prompts), "tokens": tokens}))
        print(f"{'formula':>9} {'c':>12} " + " ".join(f"{level:>11}" for level in LEVELS[kind]))
        for (formula, name), values in table.items():
            cells = " ".join(f"{agree:.3f}/{kl:6.2f}" for agree, kl in values)
            print(f"{formula:>9} {name:>12} {cells}", flush=True)


def tune(model, tokenizer, prompts, kind, steps):  # noqa: ANN001, ANN201 - a script's helper
    """Agreement and KL (nats per token) by (formula, factor) and level, and the number of tokens."""
    sites = find_sites(model, kind)
    units = sites[0].units
    factors = {"0.5": 0.5} | {f"{scale}/sqrt({units})": scale / units**0.5 for scale in SCALES}
    variants = list(product(FORMULAS[kind], factors))
    totals = torch.zeros(len(variants), len(LEVELS[kind]), 2)
    tokens = 0
    for prompt in prompts:
        prefix = prefill(model, encode_prompt(tokenizer, prompt))
        label = decode_greedily(model, prefix, steps, stop_tokens(model))[0]
        found = attribute_in_one_pass(model, sites, prefix, label[None])
        runner_up = second_choices(found.logits[0], label)
        tokens += len(label)
        for row, (formula, name) in enumerate(variants):
            metric = CorrectedGxO(factors[name], formula)
            place = {site: ranks(metric.score(found.x[site], found.gradient[site])[0]) for site in sites}
            keep = torch.tensor([keep_count(units, level) for level in LEVELS[kind]])[:, None, None]
            with (
                torch.no_grad(),
                on_units(model, sites, lambda site, x: x * (place[site] < keep).unsqueeze(-1)),  # noqa: B023
            ):
                logits = teacher_force(model, prefix.repeat(len(keep)), label.expand(len(keep), -1))
            quality = compare(logits, found.logits[0], label, runner_up)
            totals[row] += torch.stack([quality.agreement, quality.kl], dim=-1) * len(label)
    means = (totals / tokens).tolist()
    return {variant: [tuple(pair) for pair in row] for variant, row in zip(variants, means, strict=True)}, tokens


if __name__ == "__main__":
    main()
