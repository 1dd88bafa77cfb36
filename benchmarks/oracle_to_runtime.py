"""From the oracle to run time: MLP neurons by every way to know which of a token's neurons matter.

One ruler for all: teacher-forced on the dense model's own greedy answers to built-in questions, from the
first generated token on, each token's highest-scored neurons on in every layer (top-k: the share that is
off is exact). What is fitted reads the first half of a text, or a text that the model writes itself
(`--text own`). Rows that are done are not done again.

    python benchmarks/oracle_to_runtime.py --model smollm2 --text wikitext2-valid.txt --threads 1
    python benchmarks/oracle_to_runtime.py --table
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import sparseact as sa
from oracle_to_runtime_rules import Method, Rule, rules
from pages import read_rows
from sparseact.attribution import attribute_in_one_pass, make_metric, score_sites
from sparseact.calibration.fit import read_text
from sparseact.calibration.neurons import Neurons, find_neurons
from sparseact.calibration.sample import take_sample
from sparseact.data import encode_prompt, load_prompts, load_text
from sparseact.evaluation import compare, second_choices
from sparseact.masked.decoding import Prefix, decode_greedily, prefill, stop_tokens, teacher_force
from sparseact.masked.selectors import ranks
from sparseact.policies import write_text
from sparseact.recipes.selectors import keep_count
from sparseact.sites import Site, on_units, weight_bytes

LEVELS = (0.5, 0.7, 0.8)
"""Shares of the neurons that are off."""

SAVED = (0.3, 0.5)
"""Shares of the MLPs' bytes that are not read, net, at which the rules that run are compared."""

NEW_TOKENS = 16
DRAWS = 8

Scores = dict[Site, Tensor]

ATTRIBUTIONS = {
    "corrected GxO of the label": "oracle",
    "GxO of the label": "oracle",
    "|g h| of the label": "oracle",
    "|g h| of one drawn label": "dense pass and backward",
    f"RMS(g h) over {DRAWS} drawn labels": "dense pass and backward",
    "corrected GxO of one drawn label": "dense pass and backward",
    "|g| of the token before · |h|": "dense pass and backward",
}
"""Scores from a gradient: what they are, and what they need."""


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the scores of its tokens from the dense model's gradients.

    Attributes:
        scores: by name; for the label, and for the runner-up (the same where no label was read).
        oracle: ranks of the neurons by corrected GxO of the label, [T, units] by site.
    """

    prefix: Prefix
    label: Tensor
    dense: Tensor
    runner_up: Tensor
    scores: dict[str, tuple[Scores, Scores]]
    oracle: dict[Site, Tensor]


def main() -> None:
    """Measure what is not measured yet, and print it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="smollm2")
    options.add_argument("--text", default="own", help="a text file, of which the first half is used, or own")
    options.add_argument("--limit", type=int, default=16, help="questions: the last even ones")
    options.add_argument("--methods", nargs="+", default=[""], help="only those with one of these in their name")
    options.add_argument("--table", action="store_true", help="print what is measured as Markdown, and stop")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--out", type=Path, default=Path("runs/oracle-to-run-time.jsonl"))
    arguments = options.parse_args()
    if arguments.table:
        print("\n".join(f"**{name}**\n\n{table}" for name, table in places([arguments.out]).items()))
        return
    done = read_rows([arguments.out]) if arguments.out.exists() else []
    torch.set_num_threads(arguments.threads)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    model, tokenizer = sa.load(arguments.model)
    questions = load_prompts()[0::2][-arguments.limit :]  # the text that a model writes is of the first ones
    if arguments.text == "own":
        text = write_text(model, tokenizer)
        assert not any(question in text for question in questions)
    else:
        text = load_text(arguments.text)
        text = text[: len(text) // 2]
    layers = find_neurons(model)
    asked = [ask(model, [layer.site for layer in layers], encode_prompt(tokenizer, question)) for question in questions]
    sites = [site for layer in layers for site in (layer.site, layer.inputs)]
    sample = take_sample(model, sites, read_text(model, tokenizer, text).windows, gradient=True)

    methods = [Method(name, group, fitted=False) for name, group in ATTRIBUTIONS.items()]
    methods += rules(model, sample, layers[0].inputs.units, layers[0].site.units)
    for method in methods:
        if not any(part in method.name for part in arguments.methods):
            continue
        calibration = Path(arguments.text).stem if method.fitted else None
        key = {"model": arguments.model, "calibration": calibration, "method": method.name}
        if any(all(row[field] == key[field] for field in key) for row in done):
            continue
        rows = [key | row for row in measure(model, layers, method, asked)]
        with arguments.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(method.name, [(row["saved"], round(row["off"], 3), round(row["kl"], 3)) for row in rows], flush=True)


def cells(method: Method) -> Iterator[tuple[float | None, float]]:
    """(share of the MLPs' bytes that is asked for or None, share of the neurons that is off)."""
    yield from ((None, off) for off in LEVELS)
    if method.group == "run time":
        yield from ((saved, off) for saved in SAVED if (off := round(method.off(saved), 4)) < 1)


def ask(model: PreTrainedModel, sites: Sequence[Site], ids: Tensor) -> Question:
    """Let the dense model answer, and attribute its answer in all ways. ids: [1, prompt_tokens]."""
    prefix = prefill(model, ids)
    label = decode_greedily(model, prefix, NEW_TOKENS, stop_tokens(model))[0]
    with torch.no_grad():
        dense = teacher_force(model, prefix, label[None])[0]
    runner_up = second_choices(dense, label)
    draws = torch.multinomial(
        dense.softmax(dim=-1), DRAWS, replacement=True, generator=torch.Generator().manual_seed(0)
    )

    def attribute(target: Tensor) -> tuple[Scores, Scores]:
        """Neurons and gradients [targets, T, units, 1] for targets [targets, T]."""
        found = attribute_in_one_pass(model, sites, prefix, label.expand(len(target), -1), target=target)
        return found.x, found.gradient

    def scored(metric: str, found: tuple[Scores, Scores], row: int = 0) -> Scores:
        return {site: score[row] for site, score in score_sites(make_metric(metric), *found).items()}

    both, drawn = attribute(torch.stack([label, runner_up])), attribute(draws.mT)
    # The token before is known, so its loss can be differentiated when the token is run; of the last
    # prompt token too.
    before = prefill(model, ids[:, :-1])
    longer = attribute_in_one_pass(model, sites, before, torch.cat([ids[0, -1:], label])[None])
    by_metric = [(scored(metric, both), scored(metric, both, 1)) for metric in ("corrected-gxo", "gxo", "snip")]
    free = [
        scored("snip", drawn),
        {site: (drawn[0][site] * drawn[1][site]).square().mean(dim=0)[..., 0].sqrt() for site in sites},
        scored("corrected-gxo", drawn),
        {site: (longer.gradient[site][0, :-1] * longer.x[site][0, 1:])[..., 0].abs() for site in sites},
    ]
    scores = dict(zip(ATTRIBUTIONS, [*by_metric, *((score, score) for score in free)], strict=True))
    oracle = {site: ranks(score) for site, score in by_metric[0][0].items()}
    return Question(prefix, label, dense, runner_up, scores, oracle)


def measure(
    model: PreTrainedModel, layers: Sequence[Neurons], method: Method, questions: Sequence[Question]
) -> list[dict[str, Any]]:
    """A row per cell: means over the tokens of all questions, and bytes per token if only the MLPs are sparse."""
    asked_for = list(cells(method))
    off = [off for _, off in asked_for]
    tokens = sum(len(question.label) for question in questions)
    sums = dict.fromkeys(("agreement", "kl", "leak", "recall", "recall_h"), torch.zeros(len(off)))
    for question in questions:
        label, runner_up = question.scores.get(method.name, (None, None))
        found = run(model, layers, method.rule or _looked_up(label), off, question)
        if runner_up is not label:
            found["leak"] = run(model, layers, _looked_up(runner_up), off, question)["leak"]
        sums = {name: total + found[name] * len(question.label) / tokens for name, total in sums.items()}
    dense = weight_bytes(model)
    mlp = sum(layer.site.units * layer.site.unit_bytes for layer in layers)
    return [
        {
            "group": method.group,
            "saved": saved,
            "off": share,
            "bytes_per_token": dense - (mlp * (method.saves * share - method.reads) if method.rule else 0),
            **{name: float(values[index]) for name, values in sums.items()},
            "tokens": tokens,
            "questions": len(questions),
        }
        for index, (saved, share) in enumerate(asked_for)
    ]


def _looked_up(scores: Scores | None) -> Rule:
    assert scores is not None
    return lambda layer, x, h: scores[layer.site].expand_as(h)


@torch.no_grad()
def run(
    model: PreTrainedModel, layers: Sequence[Neurons], rule: Rule, off: Sequence[float], question: Question
) -> dict[str, Tensor]:
    """Run the question's answer once for each share of the neurons that is off; means over its tokens [shares]."""
    by_site = {layer.site: layer for layer in layers}
    inputs: dict[Site, Tensor] = {}
    recalls: dict[str, list[Tensor]] = {"recall": [], "recall_h": []}

    def apply(site: Site, x: Tensor) -> Tensor:
        if site not in by_site:
            inputs[site] = x[..., 0]
            return x
        layer, h = by_site[site], x[..., 0]
        keep = torch.tensor([keep_count(site.units, share) for share in off])[:, None, None]
        on = ranks(rule(layer, inputs[layer.inputs], h)) < keep
        for name, places in (("recall", question.oracle[site]), ("recall_h", ranks(h.abs()))):
            also = on & (places < keep)
            recalls[name].append((also.float().sum(dim=-1) / keep[..., 0]).mean(dim=-1))
        return x * on[..., None]

    with on_units(model, [site for layer in layers for site in (layer.inputs, layer.site)], apply):
        logits = teacher_force(model, question.prefix, question.label.expand(len(off), -1))
    quality = compare(logits, question.dense, question.label, question.runner_up)
    means = {name: torch.stack(values).mean(dim=0) for name, values in recalls.items()}
    return {"agreement": quality.agreement, "kl": quality.kl, "leak": quality.runner_up, **means}


def places(files: Sequence[Path]) -> dict[str, str]:
    """The tables of the page, by the name of their place: at equal shares of neurons off, and at equal bytes."""
    rows = read_rows(files)
    found = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        found[f"{model} neurons"] = f"{equal_neurons(own)}\n"
        found[f"{model} bytes"] = f"{equal_bytes(own)}\n"
    return found


def equal_neurons(rows: Sequence[dict[str, Any]]) -> str:
    """One line per method and calibration text."""
    lines = [
        "| scores | needs | fitted to | "
        + " | ".join(f"{level:.0%} off" for level in LEVELS)
        + " | MB per token | recall of the oracle / of \\|h\\| |",
        "|---" * (len(LEVELS) + 5) + "|",
    ]
    found: dict[tuple[str, str | None], dict[float, dict[str, Any]]] = {}
    for row in rows:
        if row["saved"] is None:
            found.setdefault((row["method"], row["calibration"]), {})[row["off"]] = row
    order = list(dict.fromkeys(method for method, _ in found))
    for (method, calibration), by_level in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        quality = [f"{row['agreement']:.3f} / {row['kl']:.2f} / {row['leak']:.2f}" for row in by_level.values()]
        read = ", ".join(f"{row['bytes_per_token'] / 1e6:.0f}" for row in by_level.values())
        recall = ", ".join(f"{row['recall']:.2f} / {row['recall_h']:.2f}" for row in by_level.values())
        group = next(iter(by_level.values()))["group"]
        lines.append(_line([method.replace("|", "\\|"), group, calibration or "", *quality, read, recall]))
    return "\n".join(lines)


def equal_bytes(rows: Sequence[dict[str, Any]]) -> str:
    """One line per method and calibration text, the least loss at the highest saving first."""
    lines = [
        "| scores | fitted to | " + " | ".join(f"{saved:.0%} of the bytes" for saved in SAVED) + " |",
        "|---" * (len(SAVED) + 2) + "|",
    ]
    found: dict[tuple[str, str | None], dict[float, dict[str, Any]]] = {}
    for row in rows:
        if row["saved"] is not None:
            found.setdefault((row["method"], row["calibration"]), {})[row["saved"]] = row
    for (method, calibration), at in sorted(found.items(), key=lambda item: item[1][min(item[1])]["kl"]):
        cells_ = [
            f"{at[saved]['kl']:.3f} ({at[saved]['agreement']:.3f}; {at[saved]['off']:.2f})" if saved in at else ""
            for saved in SAVED
        ]
        lines.append(_line([method.replace("|", "\\|"), calibration or "", *cells_]))
    return "\n".join(lines)


def _line(cells_: Sequence[str]) -> str:
    return "| " + " | ".join(cells_) + " |"


if __name__ == "__main__":
    main()
