"""What a little training makes of each way to leave weights out, and of its controls, on the same tokens.

    python benchmarks/trained_arms.py --text wikitext2-valid.txt --other tinyshakespeare.txt --tokens 20480

Each arm is a `sparseact train` into a folder of its own below --out: one that was stopped goes on, one that is done is
not run again. Its perplexity over that of the dense model, and the KL divergence from it, are those on the tails of
what it was trained on, before and after, and on a text of another kind, after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import sparseact as sa
from held_out_text import held_out_text
from pages import read_rows
from sparseact.training.quality import held_out
from sparseact.training.text import Source
from sparseact.utils.files import write_atomically

ARMS = {
    "leading-bits": ("half of the neurons by leading bits", "--method leading-bits --sparsity 0.5 --lr 1e-5"),
    "leading-bits-4e-5": ("half of the neurons by leading bits", "--method leading-bits --sparsity 0.5 --lr 4e-5"),
    "leading-bits-2e-4": ("half of the neurons by leading bits", "--method leading-bits --sparsity 0.5 --lr 2e-4"),
    "inputs": ("60% of the inputs of all linears", "--method sparseact --sparsity 0.4 --lr 4e-5"),
    "inputs-2e-4": ("60% of the inputs of all linears", "--method sparseact --sparsity 0.4 --lr 2e-4"),
    "blocks": ("half of the neurons, in blocks by a router", "--method block-router --sparsity 0.5 --lr 2e-4"),
    "pruned": ("half of the neurons pruned for good", "--method static --sparsity 0.5 --lr 2e-4"),
    "random": ("a random half", "--method static --option by=random --sparsity 0.5 --lr 2e-4"),
    "twin": ("dense twin, on the text's own loss", "--method dense --lr 2e-4"),
}
"""By name: what a row says, and what `sparseact train` is asked."""
LOCAL = {"blocks"}
"""Arms of whose tokens half are spent on each layer alone."""


def main() -> None:
    """Train what is not trained, measure, and write a line of JSON for each arm and seed."""
    options = parse()
    rows = []
    model, tokenizer = sa.load(options.model)
    other = held_out_text(tokenizer, options.other, options.windows)
    for name, seed in [(name, seed) for name in options.arms for seed in options.seeds]:
        folder = options.out / f"{name}-{seed}"
        train(name, seed, folder, options)
        found = json.loads((folder / "train.json").read_text(encoding="utf-8"))
        row = {"arm": name, "seed": seed, "tokens": options.tokens, "local_tokens": found["options"]["local_tokens"]}
        row |= {"lr": found["options"]["lr"], "seconds": found["seconds"]}
        texts = {Path(text).stem: text for text in found["after"]}
        for when in ("before", "after"):
            row[when] = {stem: read(found[when][text]) for stem, text in texts.items()}
        row["after"][other.name] = measured(folder, model, other)
        rows.append(row)
        with write_atomically(options.out / "trained-arms.jsonl") as path:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(table(rows))


def places(files: Sequence[Path]) -> dict[str, str]:
    """The table of docs/results/sparse-that-pays.md, by the name of its place."""
    return {"trained arms": table(read_rows(files)) + "\n"}


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument(
        "--text", type=Path, required=True, help="half of what is trained on; the model writes the rest"
    )
    parser.add_argument("--other", type=Path, required=True, help="a text of another kind, to measure on")
    parser.add_argument("--tokens", type=int, default=20_480)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--windows", type=int, default=5, help="of 512 tokens of the other text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/trained-arms"))
    return parser.parse_args()


def train(name: str, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """The arm's folder, if it is not done."""
    if (folder / "train.json").exists():
        return
    local = options.tokens // 2 if name in LOCAL else 0
    command = [sys.executable, "-m", "sparseact", "train", *ARMS[name][1].split(), "--model", options.model]
    command += ["--text", f"{options.text},own", "--batch", "1", "--seed", str(seed), "--threads", str(options.threads)]
    command += ["--tokens", str(options.tokens - local), "--local-tokens", str(local), "--out", str(folder)]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"{name}: the training failed; the same command goes on")


def measured(folder: Path, dense: Any, text: Source) -> dict[str, float]:
    """Of a trained model under its recipe, if it has one."""
    model, _ = sa.load(str(folder))
    recipe = folder / "recipe"
    masked = sa.policies.load_recipe(recipe)(model) if recipe.exists() else nullcontext()
    found = held_out(model, dense, [text], masked, torch.float32, windows=len(text.held_out))
    return read(found[text.name].record())


def read(record: dict[str, Any]) -> dict[str, float]:
    """What a row keeps of a measurement."""
    return {"factor": 1 + record["increase"], "kl": record["kl"], "tokens": record["tokens"]}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: an arm a row, seeds one after the other."""
    texts = list(dict.fromkeys(text for row in rows for text in row["after"]))
    head = ["arm", "rate", *(f"{text}: perplexity, KL" for text in texts)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [ARMS[row["arm"]][0] + (f", seed {row['seed']}" if row["seed"] else ""), f"{row['lr']:.0e}"]
        for text in texts:
            steps = [shown(row[when][text]) for when in ("before", "after") if text in row[when]]
            cells.append(" → ".join(steps))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(found: dict[str, float]) -> str:
    """Two figures."""
    return f"x{found['factor']:.3f}, {found['kl']:.3f}"


if __name__ == "__main__":
    main()
