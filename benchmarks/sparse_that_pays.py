"""Quality against speed of dense and sparse engines, of one model and of what training made of it, in one run.

Perplexity is read by the engine itself, token by token as it decodes, on texts that nothing was trained or calibrated
on, and given as a factor on that of the first arm, with an interval over windows (paired bootstrap). Speeds are of
rounds that all arms take in turn, each in a process of its own.

    python benchmarks/sparse_that_pays.py --text wikitext2-test.txt tinyshakespeare.txt --arms \
        dense=smollm2:f32 dense-q8=smollm2:q8 trained=runs/sparse-model@runs/sparse-model/recipe:q8 \
        trained-screen=runs/sparse-model@runs/sparse-model/recipe:q8+screen
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pages import read_rows
from sparseact import Engine
from sparseact.bench.measure import environment
from sparseact.bench.runner import Runner
from sparseact.bench.spec import Spec
from sparseact.data import load_text
from sparseact.errors import InputError
from sparseact.evaluation.interval import ratio_interval
from sparseact.models import load_tokenizer
from sparseact.utils.files import write_atomically

WINDOW = 512
"""Tokens that are read with a context of their own."""
PROMPT = 64
BASE = "engine:q8"
"""Speeds are given as ratios to this runner's too."""
Losses = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """A row of the table: a model and how it is run.

    Attributes:
        name: of the row.
        model: name, folder or file.
        spec: type, recipe and screen.
    """

    name: str
    model: str
    spec: Spec

    @property
    def unscreened(self) -> tuple[str, ...]:
        """What its logits depend on."""
        return self.model, self.spec.dtype, self.spec.recipe or ""

    @classmethod
    def parse(cls, text: str) -> Arm:
        """`NAME=MODEL[@RECIPE]:TYPE[+screen]`."""
        name, equals, rest = text.partition("=")
        where, colon, dtype = rest.rpartition(":")
        if not (name and equals and where and colon):
            raise InputError(f"arms: {text!r} is not NAME=MODEL[@RECIPE]:TYPE[+screen]")
        model, _, recipe = where.partition("@")
        return cls(name, model, Spec.parse(f"engine:{dtype}{'@' * bool(recipe)}{recipe}", "arms"))


def main() -> None:
    """Measure every arm, and write a line of JSON for each."""
    options = parse()
    try:
        arms = [Arm.parse(text) for text in options.arms]
        texts = {Path(file).stem: windows(arms[0].model, file, options.windows) for file in options.text}
        found: dict[tuple[str, ...], dict[str, Any]] = {}  # a screen serves greedy tokens only, and changes no logits
        for arm in tqdm(arms, desc="perplexity", disable=None):
            if arm.unscreened not in found:
                found[arm.unscreened] = quality(arm, texts)
    except InputError as error:
        raise SystemExit(str(error)) from error
    names = [{"arm": arm.name, "model": arm.model, "runner": str(arm.spec)} for arm in arms]
    rows = [name | found[arm.unscreened] for name, arm in zip(names, arms, strict=True)]
    for threads in options.threads:
        rates = speeds(arms, next(iter(texts.values()))[0], threads, options)
        for row in rows:
            row[f"tokens_per_second_{threads}"] = rates[row["arm"]]
    rng = np.random.default_rng(0)
    for row in rows:
        row["factor"] = {name: factor(losses, rows[0]["losses"][name], rng) for name, losses in row["losses"].items()}
    of_all = {"environment": environment(), "windows": options.windows, "window": WINDOW}
    with write_atomically(options.out) as path, path.open("w", encoding="utf-8") as file:
        for row in rows:
            losses = {name: float(np.mean(values)) for name, values in row.pop("losses").items()}
            file.write(json.dumps(row | {"loss": losses} | of_all) + "\n")
    print(table(rows))


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", required=True, help="NAME=MODEL[@RECIPE]:TYPE[+screen], a dense one first")
    parser.add_argument("--text", nargs="+", required=True, help="files, perplexity is measured on the end of each")
    parser.add_argument("--windows", type=int, default=16, help=f"of {WINDOW} tokens of each text")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="that are decoded in a round")
    parser.add_argument("--out", type=Path, default=Path("runs/sparse-that-pays.jsonl"))
    return parser.parse_args()


def windows(model: str, file: str, count: int) -> npt.NDArray[np.int64]:
    """Tokens [windows, WINDOW] from the end of a text."""
    tokenizer, _ = load_tokenizer(model)
    ids = tokenizer.encode(load_text(file), add_special_tokens=False)
    if len(ids) < count * WINDOW:
        raise InputError(f"text: {file} has {len(ids)} tokens; {count} windows are {count * WINDOW}")
    return np.array(ids[-count * WINDOW :], np.int64).reshape(count, WINDOW)


def quality(arm: Arm, texts: dict[str, npt.NDArray[np.int64]]) -> dict[str, Any]:
    """Losses [windows] of each text in nats per token, and bytes of weights read for a token."""
    with Engine.from_model(arm.model, arm.spec.recipe, arm.spec.dtype, threads=1, context=WINDOW) as engine:
        losses = {name: np.array([_loss(engine, ids) for ids in of_text]) for name, of_text in texts.items()}
        return {"losses": losses, "bytes_per_token": engine.bytes_per_token(), "achieved": engine.achieved()}


def _loss(engine: Engine, ids: npt.NDArray[np.int64]) -> float:
    engine.reset()
    logits, total = engine.prefill(ids[:1]), 0.0
    for token in ids[1:]:
        highest = logits.max()
        total += float(highest + np.log(np.exp(logits - highest, dtype=np.float64).sum()) - logits[token])
        logits = engine.step(int(token))
    return total / (len(ids) - 1)


def speeds(arms: list[Arm], ids: Any, threads: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens per second of each arm, a number a round."""
    found: dict[str, list[float]] = {arm.name: [] for arm in arms}
    with ExitStack() as stack:
        settings = {"threads": threads, "context": PROMPT + options.tokens, "python": sys.executable}
        runners = {arm.name: stack.enter_context(Runner(arm.spec, arm.model, **settings)) for arm in arms}
        for number in tqdm(range(-1, options.rounds), desc=f"rounds, {threads} thread(s)", disable=None):
            order = list(runners)
            random.Random(number).shuffle(order)
            for name in order:
                runners[name].prefill(ids[:PROMPT].tolist())
                times, _ = runners[name].decode(options.tokens)
                if number >= 0:  # the first one warms up
                    found[name].append(options.tokens / times.wall)
    return found


def factor(losses: Losses, reference: Losses, rng: np.random.Generator) -> list[float]:
    """Perplexity over the reference's: the factor, and the ends of its 95% interval over windows."""
    more = losses - reference
    ends = ratio_interval(more, np.ones(len(more)), rng)
    return [float(np.exp(more.mean())), *(ends or (float("nan"), float("nan")))]


def places(files: Sequence[Path]) -> dict[str, str]:
    """The table of docs/results/sparse-that-pays.md, by the name of its place."""
    return {"arms": table(read_rows(files)) + "\n"}


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown: speeds are medians of rounds, with ratios to dense q8 where that is an arm."""
    names = list(rows[0]["factor"])
    speed = {name.rpartition("_")[2]: name for name in rows[0] if name.startswith("tokens_per_second")}
    base = next((row for row in rows if row["runner"] == BASE), None)
    head = ["arm", "MB a token", *names, *(f"tokens/s, {threads} thread(s)" for threads in speed)]
    if base:
        head.append(f"x {base['arm']}, same round: {', '.join(speed)} thread(s)")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        factors = ["x{:.3f} ({:.3f} to {:.3f})".format(*row["factor"][name]) for name in names]
        size = "–" if "+screen" in row["runner"] else f"{row['bytes_per_token'] / 1e6:.1f}"  # read without the screen
        cells = [row["arm"], size, *factors, *(f"{np.median(row[name]):.0f}" for name in speed.values())]
        if base:
            cells.append(", ".join(_ratio(row[name], base[name]) for name in speed.values()))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    ratios = np.array(ours) / np.array(theirs)
    return f"{np.median(ratios):.2f} [{ratios.min():.2f}, {ratios.max():.2f}]"


if __name__ == "__main__":
    main()
