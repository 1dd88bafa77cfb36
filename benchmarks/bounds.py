"""What the engine was built to reach, beside what it reached: by decode.py's rows, and its logits by transformers'.

python benchmarks/bounds.py runs/decode.jsonl --exact
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import sparseact as sa
from pages import read_rows
from sparseact.bench.rates import Spread
from sparseact.bench.spec import SAME_TYPE
from sparseact.bench.summary import Group, Result, summarise
from sparseact.masked.decoding import decode_greedily, prefill

SAME = {"bf16": 1.0, "q8": 1.1, "file": 1.5}
"""Tokens per second over llama.cpp's at the same type; `file` where that is Q4_1, as SmolLM2's."""
Q4_1_FILES = ("smollm2",)
EAGER = {"bf16": 4.0, "q8": 7.0}
"""Over transformers' fastest type."""
PROMISED = {"bf16": 0.8, "q8": 0.65}
"""Ratio to the dense engine, over that of the bytes read."""
BEST_DENSE, BEST_SPARSE = 1.0, 1.5
"""Over the fastest peer at a perplexity within 1% of the dense model's, ours within 1% too."""
LOGITS, GREEDY = 1e-3, 64
"""Absolute difference of logits at f32; greedy tokens that must be equal."""


@dataclass(frozen=True)
class Bound:
    """One line: what is compared, the bound, and what was found; None if it was not measured."""

    where: str
    what: str
    bound: float
    found: Spread | None

    @property
    def verdict(self) -> str:
        """By the median."""
        if self.found is None:
            return "no such pair"
        return "reached" if self.found.median >= self.bound else "not reached"


def bounds(group: Group) -> Iterator[Bound]:
    """All that speak of speed, for one model and number of threads."""
    where = f"{group.settings['model']}, {group.threads} thread(s)"

    def bound(what: str, least: float, ours: Result | None, theirs: Result | None, factor: float = 1) -> Bound:
        ratio = group.ratio(ours, theirs) if ours else None
        if ratio:
            ratio = Spread(ratio.median * factor, ratio.least * factor, ratio.most * factor, ratio.count)
        return Bound(where, what, least, ratio)

    for dtype, least in SAME.items():
        if dtype != "file" or group.settings["model"] in Q4_1_FILES:
            other = SAME_TYPE[dtype]
            what = f"dense engine:{dtype} over llama.cpp:{other}"
            yield bound(what, least, group.of("engine", dtype), group.of("llama.cpp", other))
    peer = group.best_peer()
    for kind, least in {"dense": BEST_DENSE, "sparse": BEST_SPARSE}.items():
        ours = group.best("engine", dense=kind == "dense")
        names = f"{ours.label if ours else 'none'} over {peer.label if peer else 'none'}"
        yield bound(f"best {kind} engine within 1% over the best peer within 1% ({names})", least, ours, peer)
    for dtype, least in PROMISED.items():
        dense = group.of("engine", dtype)
        for sparse in group.results:
            if dense and sparse.engine == "engine" and sparse.check["dtype"] == dtype and sparse is not dense:
                bytes_ratio = dense.check["bytes_per_token"] / sparse.check["bytes_per_token"]
                what = f"{sparse.label} over dense, of the {bytes_ratio:.2f} that its bytes promise"
                yield bound(what, least, sparse, dense, 1 / bytes_ratio)
    eager = next((result for result in group.results if result.engine == "transformers"), None)
    for dtype, least in EAGER.items():
        what = f"dense engine:{dtype} over {eager.label if eager else 'transformers'}"
        yield bound(what, least, group.of("engine", dtype), eager)


def as_markdown(found: Sequence[Bound]) -> str:
    """A table."""
    lines = ["| where | what | bound | found | |", "|---|---|---|---|---|"]
    for bound in found:
        spread = bound.found
        value = f"{spread.median:.2f} [{spread.least:.2f}, {spread.most:.2f}]" if spread else "–"
        lines.append(f"| {bound.where} | {bound.what} | {bound.bound:g} | {value} | {bound.verdict} |")
    return "\n".join(lines) + "\n"


@torch.no_grad()
def exactness(name: str) -> str:
    """Whether the engine's logits at f32 and its greedy tokens are transformers'."""
    model, tokenizer = sa.load(name, device="cpu")
    ids = tokenizer("The sky is blue because", return_tensors="pt").input_ids
    with sa.Engine.from_model(name, dtype="f32") as engine:
        logits = engine.prefill(ids[0].tolist())
        found = engine.greedy(GREEDY)
    expected = decode_greedily(model, prefill(model, ids), GREEDY, frozenset())[0]
    apart = float(np.abs(logits - model(ids).logits[0, -1].numpy()).max())
    same = sum(ours == theirs for ours, theirs in zip(found, expected.tolist(), strict=True))
    reached = "reached" if apart <= LOGITS and same == GREEDY else "not reached"
    return (
        f"{name}, f32: logits at most {apart:.1e} from transformers' (bound {LOGITS:g}), {same} of {GREEDY} greedy "
        f"tokens equal: {reached}"
    )


def main() -> None:
    """Print the bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", type=Path)
    parser.add_argument("--disturbed", action="store_true", help="count samples that shared the cores too")
    parser.add_argument("--exact", action="store_true", help="compare logits and greedy tokens with transformers' too")
    arguments = parser.parse_args()
    rows = read_rows(arguments.rows)
    groups = summarise(rows, disturbed=arguments.disturbed)
    print(as_markdown([bound for group in groups for bound in bounds(group)]))
    for group in groups:
        for runner, reason in sorted(group.refused.items()):
            print(f"{group.settings['model']}, {group.threads} thread(s): no speed of {runner}: {reason}")
        if group.disturbed:
            print(f"{group.settings['model']}, {group.threads} thread(s): other programs wanted the processors in "
                  f"{group.disturbed} of {group.samples} measurements")  # fmt: skip
    if arguments.exact:
        for name in dict.fromkeys(group.settings["model"] for group in groups):
            print(exactness(name))


if __name__ == "__main__":
    main()
