"""What one attribution costs: the published loop, a loop over tokens with a cache, and one pass.

All three give corrected GxO for every neuron, head, layer and generated token of the same prompts,
run in turn in one process, and are compared score by score; one prompt is compared in float64 too,
which tells rounding from error. The published loop is timed on some layers and scaled to all: each
layer costs the same forwards, and layers are drawn in mirrored pairs, so that the depth of the
backward is the mean one. `--full` runs all layers instead.

    python benchmarks/attribution.py --threads 1
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

import sparseact as sa
from loops import cached_loop, published_magnitude, published_site, uncut_pass
from sparseact.attribution import attribute_in_one_pass, make_metric, score_sites
from sparseact.data import encode_prompt, load_prompts
from sparseact.masked.decoding import Prefix, decode_greedily, prefill, stop_tokens, teacher_force
from sparseact.masked.selectors import topk_mask
from sparseact.sites import Site, find_sites
from sparseact.utils.environment import describe

T = TypeVar("T")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
KEPT_AT = 0.8


def main() -> None:
    """Measure, and print a table or one JSON object."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    model, tokenizer = sa.load(options.model, device="cpu")
    depth = model.config.num_hidden_layers
    layers = list(range(depth)) if options.full else mirrored_layers(depth, options.layers, options.seed)
    rounds, differences = [], []
    for question in load_prompts()[: options.prompts]:
        ids = encode_prompt(tokenizer, question)
        label = decode_greedily(model, prefill(model, ids), options.max_new_tokens, stop_tokens(model))[0][None]
        one_pass(model, find_sites(model), ids, label)  # warm up
        for _ in range(options.rounds):
            times, difference = one_round(model, ids, label, layers, CLOCKS[options.clock])
            rounds.append({"prompt": question, "prompt_tokens": ids.shape[1], "tokens": label.shape[1], **times})
            differences.append(difference)
    result = {
        "model": options.model,
        "prompts": options.prompts,
        "rounds": options.rounds,
        "layers_measured": layers,
        "layers": depth,
        "clock": options.clock,
        **summarise(rounds),
        "difference": worst(differences),
        "rounding": rounding(model, ids, label),
        "environment": {**describe(model.device, torch.float32), "load_average": os.getloadavg()[0]},
        "measured": rounds,
    }
    print(json.dumps(result) if options.json else as_text(result))


def arguments() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--prompts", type=int, default=3, help="how many of the built-in questions")
    parser.add_argument("--max-new-tokens", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured per question")
    parser.add_argument("--layers", type=int, default=2, help="layers of the published loop that are run (even)")
    parser.add_argument("--full", action="store_true", help="run all layers of the published loop (minutes each)")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: seconds of CPU, on a busy machine")
    parser.add_argument("--seed", type=int, default=0, help="draws the layers")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def mirrored_layers(depth: int, count: int, seed: int) -> list[int]:
    """`count` random layers in pairs l, depth - 1 - l: their mean depth is that of all layers."""
    if count % 2 or not 2 <= count <= depth:
        raise SystemExit(f"--layers: {count} is not an even number from 2 to {depth}")
    shallow = random.Random(seed).sample(range(depth // 2), count // 2)
    return sorted([*shallow, *(depth - 1 - layer for layer in shallow)])


def one_pass(model: PreTrainedModel, sites: Sequence[Site], ids: Tensor, label: Tensor) -> dict[Site, Tensor]:
    """Corrected GxO [T, units] of every site, prefill included."""
    found = attribute_in_one_pass(model, sites, prefill(model, ids), label)
    scores = score_sites(make_metric("corrected-gxo"), found.x, found.gradient)
    return {site: score[0] for site, score in scores.items()}


@torch.no_grad()
def dense_forward(model: PreTrainedModel, ids: Tensor, label: Tensor) -> Tensor:
    """Logits of the label's steps from one forward of the same tokens, prompt included."""
    tokens = torch.cat([ids, label[:, :-1]], dim=1)
    return model(input_ids=tokens, use_cache=False, logits_to_keep=label.shape[1]).logits


@torch.no_grad()
def steps_forward(model: PreTrainedModel, prefix: Prefix, label: Tensor) -> Tensor:
    """Logits of the label's steps after a prompt that is cached."""
    return teacher_force(model, prefix, label)


def one_round(
    model: PreTrainedModel, ids: Tensor, label: Tensor, layers: Sequence[int], clock: Callable[[], float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of every implementation, taken in turn, and how far their scores are apart."""
    sites = find_sites(model)
    chosen = [site for site in sites if site.layer in layers]
    prefix = prefill(model, ids)
    measured: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[[], T]) -> T:
        start = clock()
        result = function()
        measured.setdefault(name, []).append(clock() - start)
        return result

    def short_ones() -> dict[Site, Tensor]:
        timed("dense", lambda: dense_forward(model, ids, label))
        timed("steps_forward", lambda: steps_forward(model, prefix, label))
        timed("steps", lambda: attribute_in_one_pass(model, sites, prefix, label))
        return timed("ours", lambda: one_pass(model, sites, ids, label))

    ours = short_ones()
    cached = timed("cached", lambda: cached_loop(model, sites, ids, label))
    short_ones()
    magnitude = timed("once", lambda: published_magnitude(model, sites, ids, label))
    published = timed(
        "layers", lambda: {site: published_site(model, site, ids, label, magnitude[site]) for site in chosen}
    )
    short_ones()
    times = {name: statistics.median(values) for name, values in measured.items()}
    times["published"] = times.pop("once") + times.pop("layers") * len(sites) / len(chosen)
    return times, compare_scores(ours, cached, published)


Difference = dict[str, float]


def compare_scores(ours: dict[Site, Tensor], *others: dict[Site, Tensor]) -> Difference:
    """How far scores [T, units] are apart, at worst over the sites.

    Returns:
        `absolute`: of one score; `layer`: L2 norm of the difference over that of the layer's scores;
        `token`: largest difference over the token's largest score in that layer; `kept`: share of
        the units kept at 80% sparsity that are the same.
    """
    found = []
    for other in others:
        for site, scores in other.items():
            theirs = scores.double()
            difference = (ours[site] - theirs).abs()
            both = topk_mask(ours[site], KEPT_AT) & topk_mask(theirs, KEPT_AT)
            found.append(
                {
                    "absolute": float(difference.max()),
                    "layer": float(difference.norm() / theirs.norm()),
                    "token": float((difference.amax(dim=-1) / theirs.abs().amax(dim=-1)).max()),
                    "kept": float(both.sum() / topk_mask(theirs, KEPT_AT).sum()),
                }
            )
    return worst(found)


def worst(differences: Sequence[Difference]) -> Difference:
    """The largest of each difference, the smallest share."""
    return {key: (min if key == "kept" else max)(d[key] for d in differences) for key in differences[0]}


def rounding(model: PreTrainedModel, ids: Tensor, label: Tensor) -> dict[str, Difference]:
    """Scores in float32 against float64, where the two ways must agree. Leaves the model in float64."""
    sites = find_sites(model)
    ours, loop = one_pass(model, sites, ids, label), cached_loop(model, sites, ids, label)
    model.double()
    exact = cached_loop(model, sites, ids, label)
    return {
        "one pass f64": compare_scores(one_pass(model, sites, ids, label), exact),
        "one pass f32": compare_scores(ours, exact),
        "loop f32": compare_scores(loop, exact),
        "uncut pass f64": compare_scores(uncut_pass(model, sites, ids, label), exact),
    }


RATIOS = {
    "published / ours": ("published", "ours"),
    "cached / ours": ("cached", "ours"),
    "ours / dense": ("ours", "dense"),
    "pass / forward of the steps": ("steps", "steps_forward"),
}


def summarise(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and largest of every time and ratio over prompts and rounds."""

    def spread(values: Sequence[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    names = dict.fromkeys(name for pair in RATIOS.values() for name in pair)
    return {
        "seconds": {name: spread([r[name] for r in rounds]) for name in names},
        "ratios": {label: spread([r[a] / r[b] for r in rounds]) for label, (a, b) in RATIOS.items()},
    }


def as_text(result: dict[str, Any]) -> str:
    """The result for a reader."""
    scaled = (
        "all layers run"
        if len(result["layers_measured"]) == result["layers"]
        else (f"layers {', '.join(map(str, result['layers_measured']))} run, scaled to {result['layers']}")
    )
    environment, unit = result["environment"], f" (s, {result['clock']})"
    rounding = {f"{name} to loop f64": difference for name, difference in result["rounding"].items()}
    lines = [
        f"{result['model']}, {environment['dtype']}, {environment['cpu']}",
        f"{environment['threads']} thread(s), load average {environment['load_average']:.1f}",
        f"{result['prompts']} prompts x {result['rounds']} rounds; published loop: {scaled}",
        f"{'':30}{'median':>10}{'min':>10}{'max':>10}",
        *(
            f"{name + unit:30}" + "".join(f"{value[key]:10.3f}" for key in ("median", "min", "max"))
            for name, value in result["seconds"].items()
        ),
        *(
            f"{name:30}" + "".join(f"{value[key]:10.2f}" for key in ("median", "min", "max"))
            for name, value in result["ratios"].items()
        ),
        f"{'difference, at worst':30}{'absolute':>10}{'layer':>10}{'token':>10}{'kept':>10}",
        *(
            f"{name:30}{d['absolute']:10.1e}{d['layer']:10.1e}{d['token']:10.1e}{d['kept']:10.2%}"
            for name, d in {"one pass f32 to loops f32": result["difference"], **rounding}.items()
        ),
        "versions: " + ", ".join(f"{name} {version}" for name, version in environment["versions"].items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
