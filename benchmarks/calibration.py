"""What calibrating each policy costs: seconds, processor seconds and peak memory, each in a process of its own.

python benchmarks/calibration.py --model smollm2 --text wikitext2-valid.txt --out runs/calibration.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import read_rows
from sparseact.policies import POLICIES
from sparseact.utils.environment import describe


def main() -> None:
    """Calibrate every policy once and append a row for each."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="smollm2")
    options.add_argument("--text", required=True)
    options.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    options.add_argument("--sparsity", type=float, default=0.4)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--recipes", type=Path, default=Path("runs/recipes"), help="where the recipes are kept")
    options.add_argument("--out", type=Path, default=Path("runs/calibration.jsonl"))
    arguments = options.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for policy in arguments.policies:
        row = measure(policy, arguments)
        with arguments.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps({field: row[field] for field in ("model", "policy", "seconds", "cpu_seconds", "peak_bytes")}))


def measure(policy: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row; loading the model is part of it, as it is of the command."""
    folder = arguments.recipes / f"{arguments.model}-{policy}-{arguments.sparsity:g}"
    command = [sys.executable, "-m", "sparseact", "calibrate", "--policy", policy, "--model", arguments.model]
    command += ["--sparsity", str(arguments.sparsity), "--text", arguments.text, "--out", str(folder)]
    command += ["--threads", str(arguments.threads)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    message = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{policy}: {message.strip().splitlines()[-1]}")
    return {
        "model": arguments.model,
        "policy": policy,
        "sparsity": arguments.sparsity,
        "threads": arguments.threads,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "environment": describe(),
    }


def places(files: Sequence[Path]) -> dict[str, str]:
    """The table of docs/results/policies.md, by the name of its place."""
    return {"calibration": table(read_rows(files))}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds and peak memory of each policy, models side by side."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    head = ["policy"]
    for model in models:
        head += [f"{model}: seconds", "processor seconds", "peak memory (GB)"]
    cells = {(row["policy"], row["model"]): row for row in rows}
    lines = [head, ["---"] * len(head)]
    for name in sorted({row["policy"] for row in rows}):
        line = [f"`{name}`"]
        for model in models:
            row = cells.get((name, model))
            cost = (row["seconds"], row["cpu_seconds"], row["peak_bytes"] / 1e9) if row else None
            line += [f"{cost[0]:.0f}", f"{cost[1]:.0f}", f"{cost[2]:.1f}"] if cost else ["", "", ""]
        lines.append(line)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
