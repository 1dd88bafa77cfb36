"""Decoding while other programs want the same processors: busy loops beside it, on one thread and on more.

For each number of loops, engines on one thread and on two take turns, round after round, each in a process of its own.
The last column is what was asked for: two threads must never be slower than one by more than a tenth, whatever else
runs. (With many loops a round of a few seconds still scatters: the system shares the processors out in slices.)

    python benchmarks/busy_machine.py --runners engine:file llama.cpp:file --python .venv-peers/bin/python
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sparseact.bench.measure import environment
from sparseact.bench.runner import Runner
from sparseact.bench.spec import Spec
from sparseact.models.resolve import resolve
from sparseact.utils.files import write_atomically

PROMPT = list(range(100, 132))


def main() -> None:
    """Measure, write a line of JSON for each runner, number of threads and of loops, and print the table."""
    options = parse()
    rows = []
    for loops in options.loops:
        with busy(loops):
            rows += measure(loops, options)
    with write_atomically(options.out) as path:
        path.write_text("".join(json.dumps(row | {"environment": environment()}) + "\n" for row in rows))
    print(table(rows))


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument(
        "--runners",
        nargs="+",
        default=["engine:file"],
        help="engines and types, such as engine:q8; of others file, the file as it is",
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter of runners that are not the engine")
    parser.add_argument("--loops", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128, help="that are decoded in a round")
    parser.add_argument("--out", type=Path, default=Path("runs/busy-machine.jsonl"))
    return parser.parse_args()


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing but want a processor."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(loops: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Tokens per second of every runner and number of threads, a number a round."""
    found: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        runners = {}
        for name in options.runners:
            spec = Spec.parse(name, "runners")
            ours = spec.engine == "engine"
            model = options.model if ours else str(resolve(options.model).weights)
            python = sys.executable if ours else options.python
            for threads in options.threads:
                settings = {"threads": threads, "context": len(PROMPT) + options.tokens, "python": python}
                runners[name, threads] = stack.enter_context(Runner(spec, model, **settings))
                found[name, threads] = []
        for number in tqdm(range(-1, options.rounds), desc=f"{loops} loops", disable=None):
            for key, runner in runners.items():
                runner.prefill(PROMPT)
                times, _ = runner.decode(options.tokens)
                if number >= 0:  # the first one warms up
                    found[key].append(options.tokens / times.wall)
    return [
        {"runner": name, "threads": threads, "loops": loops, "tokens_per_second": rates}
        for (name, threads), rates in found.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown: medians [least, most], and the ratio of more threads to one in the same round."""
    threads = sorted({row["threads"] for row in rows})
    heads = [f"{count} thread(s), tokens/s" for count in threads] + [f"{count} over 1" for count in threads[1:]]
    lines = [f"| runner | busy loops | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for runner, loops in dict.fromkeys((row["runner"], row["loops"]) for row in rows):
        of_both = [row for row in rows if (row["runner"], row["loops"]) == (runner, loops)]
        of_it = {row["threads"]: np.array(row["tokens_per_second"]) for row in of_both}
        cells = [_spread(of_it[count], ".0f") for count in threads]
        cells += [_spread(of_it[count] / of_it[threads[0]], ".2f") for count in threads[1:]]
        lines.append(f"| {runner} | {loops} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Any, form: str) -> str:
    return f"{np.median(values):{form}} [{values.min():{form}}, {values.max():{form}}]"


if __name__ == "__main__":
    main()
