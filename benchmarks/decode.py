"""Tokens per second of this project's engine, transformers and the engines of benchmarks/peers.txt, with perplexity.

As `sparseact bench`, for more runners at once and for several numbers of threads; and rows are kept: rounds that are
done are not done again. A row needs a perplexity that was checked in the same run.

    make bench-peers
    python benchmarks/decode.py --model smollm2 --text wikitext2-valid.txt --recipes runs/recipes/smollm2-*
    python benchmarks/decode_table.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sparseact.bench.measure import environment, read_work, settings
from sparseact.bench.peers import BUILT, Setup
from sparseact.bench.runner import RunnerError
from sparseact.bench.session import References, Work, check_all, first_use, time_all
from sparseact.bench.spec import Spec, describe_recipe
from sparseact.errors import InputError

RUNNERS = (
    "transformers:f32",
    "transformers:bf16",
    "llama.cpp:file",
    "llama.cpp:bf16",
    "llama.cpp:q8_0",
    "llama.cpp:q4_0",
    "ik_llama.cpp:file",
    "ik_llama.cpp:file+ub16",  # on some processors larger batches of Q4_1 are wrong; see docs/results/engine.md
    "ik_llama.cpp:q8_0+rtr",
    "ik_llama.cpp:q4_0+rtr",
    "onnxruntime-genai:q8_0",
    "onnxruntime-genai:q4_0",
    "openvino-genai:file",
    "openvino-genai:q8_0",
    "openvino-genai:q4_0",
    "mistralrs:file",
    "mistralrs:q8_0",
    "engine:f32",
    "engine:bf16",
    "engine:q8",
    "engine:q4",
    "engine:file",
    "engine:q8+screen",
    "engine:file+screen",
)
SPARSE = ("bf16", "q8", "file")
"""Types of the engine with each recipe."""


def main() -> None:
    """Measure what is not measured yet."""
    try:
        measure(parse())
    except (InputError, RunnerError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(
            "interrupted; rounds that are done are kept, and the same command goes on from there"
        ) from None


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a built-in name, or a GGUF file")
    parser.add_argument("--text", help="a text file; its second half is read; the model's own answers by default")
    parser.add_argument("--runners", nargs="+", default=RUNNERS, help="engine:dtype[+rtr][+ubN][@recipe folder]")
    parser.add_argument("--recipes", nargs="*", default=[], help="folders, each for the engine at --sparse-types")
    parser.add_argument("--sparse-types", nargs="+", default=SPARSE)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt-tokens", type=int, default=128, help="tokens that are read before decoding")
    parser.add_argument("--tokens", type=int, default=64, help="tokens that are decoded")
    parser.add_argument("--context", type=int, default=512, help="tokens of the text that perplexity is measured on")
    parser.add_argument("--peers-python", type=Path, default=BUILT)
    parser.add_argument("--gguf-folder", type=Path, default=Path("runs/gguf"), help="keeps files of other types")
    parser.add_argument("--out", type=Path, default=Path("runs/decode.jsonl"))
    parser.add_argument("--seed", type=int, default=0, help="draws the order within a round")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> None:
    """Check every engine, then time them in turn, for each number of threads."""
    for folder in arguments.recipes:
        describe_recipe(folder)
    sparse = [f"engine:{dtype}@{folder}" for folder in arguments.recipes for dtype in arguments.sparse_types]
    specs = [Spec.parse(text) for text in (*arguments.runners, *sparse)]
    setup = Setup(arguments.model, arguments.peers_python, arguments.gguf_folder)
    sizes = {"context": arguments.context, "prompt": arguments.prompt_tokens, "tokens": arguments.tokens}
    work = read_work(arguments.model, arguments.text, **sizes, seed=arguments.seed)
    of_all = {"run": time.strftime("%Y-%m-%dT%H:%M:%S"), **settings(arguments.model, work)}

    def record(*rows: dict[str, Any]) -> None:
        with arguments.out.open("a") as file:
            file.write("".join(json.dumps(of_all | row) + "\n" for row in rows))
        for row in rows:
            if row.get("refused"):
                print(f"no speed of {row['runner']}: {row['refused']}", file=sys.stderr, flush=True)

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record({"kind": "run", "environment": environment()})
    references = References(setup, work, max(arguments.threads))
    compiled = next((spec for spec in specs if spec.engine == "engine"), None)
    for threads in arguments.threads:
        with suppress(RunnerError, InputError):  # the check says why
            if compiled:
                seconds = compile_seconds(compiled, setup, work, threads)
                record({"kind": "compile", "threads": threads, **seconds})
        with ExitStack() as stack:
            runners = check_all(specs, references, threads, record, stack)
            done = rounds_done(arguments.out, of_all | {"threads": threads}, {str(runner.spec) for runner in runners})
            time_all(runners, work, threads, range(done, arguments.rounds), arguments.seed, record)


def compile_seconds(spec: Spec, setup: Setup, work: Work, threads: int) -> dict[str, float]:
    """Seconds from the start of the process to the first token after the prompt, with and without compiling."""
    found = {}
    with TemporaryDirectory() as folder:
        for name in ("first", "cached"):
            cache = {"NUMBA_CACHE_DIR": folder}
            with setup.start(spec, threads=threads, context=work.context, environment=cache) as runner:
                found[name] = runner.load_seconds + first_use(runner, work)
    return found


def rounds_done(path: Path, key: dict[str, Any], runners: set[str]) -> int:
    """How many rounds with the same settings and all these runners there are."""
    rounds: dict[tuple[str, int], set[str]] = {}
    same = {name: value for name, value in key.items() if name != "run"}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == "sample" and row.items() >= same.items():
            rounds.setdefault((row["run"], row["round"]), set()).add(row["runner"])
    return sum(runners <= found for found in rounds.values())


if __name__ == "__main__":
    main()
