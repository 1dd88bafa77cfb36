"""Do predictors fail on small models, or do they starve? Deja Vu's, fitted on more and more tokens of calibration.

For each layer, from the MLP's input x, two low-rank predictors of which neurons matter most (|h_i| * ||W_down,i||):

    ridge     reduced-rank ridge regression of the importance's share of the token's mean, in closed form (`deja-vu`)
    logistic  B A x + b by Adam on the cross entropy of who is among the most important (Liu et al., arXiv 2310.17157)

and three controls: `static`, for all tokens the neurons that are most important on average; `random-set`, for all
tokens the same random ones; `random-router`, B A x of random A and B. For each: recall of the most important neurons on
tokens that were not fitted, and perplexity and KL of the model that runs on what is predicted, beside the exact choice.
Inputs are kept on disk, so that a stopped run goes on.

    python benchmarks/predictors.py --text wikitext2-valid.txt --measure tinyshakespeare.txt --tokens 2300 100000
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

import sparseact as sa
from held_out_text import WINDOW, held_out_text
from sparseact.calibration.neurons import Neurons, find_neurons, read_signal
from sparseact.calibration.regression import reduced_rank_regression
from sparseact.calibration.weights import column_norms
from sparseact.masked.apply import run_gates
from sparseact.masked.gate import predict
from sparseact.masked.selectors import topk_mask
from sparseact.policies.deja_vu import recall_of
from sparseact.recipes.gate import Gate, Signal
from sparseact.recipes.phases import Phases
from sparseact.recipes.selectors import TopK
from sparseact.sites import Site, capture, skip_logits
from sparseact.training.parameters import dense_teacher
from sparseact.training.quality import held_out
from sparseact.training.text import Source
from sparseact.utils.files import write_atomically

UNFITTED = 2048
"""Tokens of the end of what is captured, on which recall is read."""
STEPS, BATCH, RATE = 1000, 1024, 2e-3
"""Of the logistic predictor: steps of Adam, whatever the number of tokens, tokens of a step, learning rate at first."""

FITTED = ("ridge", "logistic")
KINDS = (*FITTED, "static", "random-set", "random-router")

Inputs = NDArray[np.float16]


def main() -> None:
    """Capture, fit, measure; a line of JSON for each number of tokens and kind of predictor."""
    options = parse()
    model, tokenizer = sa.load(options.model)
    texts = [held_out_text(tokenizer, file, options.windows) for file in (options.text, options.measure)]
    options.out.mkdir(parents=True, exist_ok=True)
    parts = find_neurons(model)
    inputs = capture_inputs(model, parts, texts[0], max(options.tokens) + UNFITTED, options.out / "inputs.npy")
    dense, rows = dense_teacher(model, shared=False), []
    exact = [Gate(part.site, TopK(options.off), scale=column_norms(model, part.site)) for part in parts]
    rows.append({"predictor": "exact", "tokens": 0, "recall": 1.0} | measured(model, dense, exact, texts))
    for kind in options.kinds:
        for tokens in options.tokens if kind in FITTED else [max(options.tokens)]:
            fitted = fit_all(model, parts, inputs, kind, tokens, options)
            gates = [gate for gate, _ in fitted]
            recall = float(np.mean([found for _, found in fitted]))
            row = {"predictor": kind, "tokens": tokens, "recall": round(recall, 4)}
            rows.append(row | measured(model, dense, gates, texts))
            print(json.dumps(rows[-1]), flush=True)
    with write_atomically(options.out / "rows.jsonl") as path:
        path.write_text("".join(json.dumps(row | {"off": options.off, "rank": options.rank}) + "\n" for row in rows))


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--text", required=True, help="what predictors are fitted on; its end is measured on")
    parser.add_argument("--measure", required=True, help="a text of another kind, whose end is measured on")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2300, 20_000, 100_000])
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--off", type=float, default=0.5, help="share of the neurons that is off for a token")
    parser.add_argument("--windows", type=int, default=4, help="of each text that perplexity is read on")
    parser.add_argument("--rank", type=int, default=144)
    parser.add_argument("--out", type=Path, default=Path("runs/predictors"))
    return parser.parse_args()


def capture_inputs(model: Any, parts: Sequence[Neurons], text: Source, tokens: int, file: Path) -> Inputs:
    """What enters each MLP [layers, tokens, hidden], float16, kept in a file."""
    windows = -(-tokens // WINDOW)
    if len(text.ids) < windows * WINDOW:
        raise SystemExit(f"text: {len(text.ids):,} tokens are fewer than the {windows * WINDOW:,} that are asked for")
    if file.exists():
        kept: Inputs = np.load(file, mmap_mode="r")
        if kept.shape[1] == windows * WINDOW:
            return kept
    shape = (len(parts), windows * WINDOW, parts[0].inputs.units)
    sites = [part.inputs for part in parts]
    with write_atomically(file) as path:
        found: Inputs = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        for at in tqdm(range(0, windows * WINDOW, WINDOW), desc="inputs", disable=None):
            with torch.no_grad(), capture(model, sites) as seen, skip_logits(model):
                model(torch.from_numpy(text.ids[None, at : at + WINDOW].astype(np.int64)), use_cache=False)
            for layer, site in enumerate(sites):
                found[layer, at : at + WINDOW] = seen[site].flatten(-2)[0].numpy()
        found.flush()
    return np.load(file, mmap_mode="r")


def fit_all(
    model: Any, parts: Sequence[Neurons], inputs: Inputs, kind: str, tokens: int, options: argparse.Namespace
) -> list[tuple[Gate, float]]:
    """A gate of each layer, and the recall of its predictor."""
    found = []
    for part, of_layer in zip(tqdm(parts, desc=f"{kind} {tokens}", disable=None), inputs, strict=True):
        used = torch.from_numpy(np.concatenate([of_layer[:tokens], of_layer[-UNFITTED:]])).float()
        importance = importance_of(model, part, used)
        on = topk_mask(importance, options.off)
        share = importance[:tokens] / importance[:tokens].mean(dim=1, keepdim=True).clamp(min=1e-12)
        if kind == "ridge":
            predictor = reduced_rank_regression(used[:tokens], share, options.rank)
        elif kind == "logistic":
            predictor = logistic_regression(used[:tokens], on[:tokens], options.rank)
        else:
            predictor = control(kind, used.shape[1], share.mean(dim=0), options.rank, seed=len(found))
        signal = Signal("predicted", part.inputs.module, activation="sigmoid")
        gate = Gate(part.site, TopK(options.off), signal, predictor=predictor)
        kept = topk_mask(gate.score(predict(gate, used[tokens:])), options.off)
        found.append((gate, recall_of(kept, on[tokens:])))
    return found


def importance_of(model: Any, part: Neurons, x: Tensor) -> Tensor:
    """|h| times the norms of down's columns [tokens, neurons]."""
    signals = [signal for signal in (part.gate, part.up) if signal is not None]
    neurons = torch.stack([read_signal(model, signal, x) for signal in signals]).prod(dim=0)
    return neurons.abs() * column_norms(model, part.site)


def logistic_regression(x: Tensor, on: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """A [rank, inputs], B [units, rank], b [units] of sigmoid(B A x + b), started from the ridge regression of `on`."""
    scale = x.square().mean().sqrt()
    A, B, b = reduced_rank_regression(x, on.float(), rank)
    start = A * scale, 4 * B, 4 * b - 2  # the logit of a share near 1/2, where the sigmoid's slope is 1/4
    parameters = [part.clone().requires_grad_() for part in start]
    optimiser = torch.optim.Adam(parameters, lr=RATE)
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        A, B, b = parameters
        loss = binary_cross_entropy_with_logits((x[rows] / scale) @ A.mT @ B.mT + b, on[rows].float())
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    A, B, b = (part.detach() for part in parameters)
    return A / scale, B, b


def control(kind: str, inputs: int, share: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A predictor that knows no token, or no neuron."""
    generator = torch.Generator().manual_seed(seed)
    nothing = torch.zeros(1, inputs), torch.zeros(len(share), 1)
    if kind == "static":
        return *nothing, share.log()
    if kind == "random-set":
        return *nothing, torch.rand(len(share), generator=generator)
    A, B = (torch.randn(shape, generator=generator) for shape in ((rank, inputs), (len(share), rank)))
    return A / (inputs * rank) ** 0.5, B, torch.zeros(len(share))


def measured(model: Any, dense: Any, gates: Sequence[Gate], texts: Sequence[Source]) -> dict[str, Any]:
    """Perplexity over dense, and KL, on the held-out windows of each text."""
    by_site: dict[Site, Gate] = {gate.site: gate for gate in gates}
    masked = run_gates(model, by_site, replace(Phases(), prefill=True))
    windows = max(len(text.held_out) for text in texts)
    found = held_out(model, dense, texts, masked, torch.float32, windows=windows)
    return {name: {"factor": 1 + each.increase, "kl": each.kl, "tokens": each.tokens} for name, each in found.items()}


if __name__ == "__main__":
    main()
