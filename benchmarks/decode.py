"""Tokens per second of this project's engine, transformers, llama.cpp and ik_llama.cpp, with their perplexity.

Every engine reads the same tokens in a process of its own. One whose perplexity, checked in the same run, is
more than 5% off that of its own weights in float32 gets no row. All are timed in turn, in random order, round
after round; ratios are of the same round. Rows are appended, and rounds that are done are not done again.

    make bench-peers
    python benchmarks/decode.py --text wikitext2-valid.txt --rounds 7
    python benchmarks/decode.py --table --plots docs/results/engine

onnxruntime-genai and openvino-genai are not among them: the first runs only models that its own tool has
converted, the second has no adapter here yet.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
from tqdm import tqdm

import sparseact as sa
from decode_table import PEERS, as_markdown, summarise
from sparseact.bench.bandwidth import Bandwidth
from sparseact.bench.runner import Runner, RunnerError, Spec
from sparseact.bench.session import References, Work, admit, first_use, sample
from sparseact.data import load_text
from sparseact.environment import describe
from sparseact.errors import InputError
from sparseact.files import write_atomically
from sparseact.models import gguf_path
from sparseact.models.builtin import BUILTIN

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
    "engine:f32",
    "engine:bf16",
    "engine:q8",
    "engine:file",
)


def main() -> None:
    """Measure what is not measured yet, or print what is."""
    arguments = parse()
    try:
        if arguments.table:
            rows = [json.loads(line) for line in arguments.out.read_text().splitlines()]
            found = summarise(rows, disturbed=arguments.disturbed)
            print(as_markdown(found, arguments.against))
            if arguments.plots:
                from decode_plots import write_plots

                write_plots(found, arguments.plots)
            return
        measure(arguments)
    except InputError as error:
        raise SystemExit(str(error)) from error


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a built-in name, or a GGUF file")
    parser.add_argument("--text", help="a text file; its second half is read, recipes may know its first")
    parser.add_argument("--runners", nargs="+", default=RUNNERS, help="engine:dtype[+rtr][+ubN][@recipe folder]")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=128, help="tokens that are read before decoding")
    parser.add_argument("--tokens", type=int, default=64, help="tokens that are decoded")
    parser.add_argument("--context", type=int, default=512, help="tokens of the text that perplexity is measured on")
    parser.add_argument("--peers-python", type=Path, default=Path(".venv-peers/bin/python"))
    parser.add_argument("--gguf-folder", type=Path, default=Path("runs/gguf"), help="keeps files of other types")
    parser.add_argument("--out", type=Path, default=Path("runs/decode.jsonl"))
    parser.add_argument("--seed", type=int, default=0, help="draws the order within a round")
    parser.add_argument("--table", action="store_true", help="print what is measured as Markdown, and stop")
    parser.add_argument("--against", nargs="+", default=["llama.cpp:file"], help="ratios to these; and the best peer")
    parser.add_argument("--disturbed", action="store_true", help="with --table: count disturbed samples too")
    parser.add_argument("--plots", type=Path, help="with --table: folder for frontier.png and roofline.png")
    arguments = parser.parse_args()
    if not arguments.table and arguments.text is None:
        parser.error("--text is needed")
    return arguments


def measure(arguments: argparse.Namespace) -> None:
    """Check every engine, then time them in turn, for each number of threads."""
    specs = [Spec.parse(text) for text in arguments.runners]
    work = Work(read_ids(arguments), arguments.prompt, arguments.tokens)
    settings = {
        "model": arguments.model,
        "text_sha256": hashlib.sha256(json.dumps(list(work.ids)).encode()).hexdigest()[:16],
        "prompt": work.prompt,
        "tokens": work.tokens,
        "context": len(work.ids),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    run = time.strftime("%Y-%m-%dT%H:%M:%S")
    environment = describe() | {"load_average": os.getloadavg()[0]}
    write(arguments.out, {"kind": "run", "run": run, **settings, "environment": environment})
    references = References(work, sys.executable, max(arguments.threads))
    compiled = next((spec for spec in specs if spec.engine == "engine"), None)
    for threads in arguments.threads:
        key = {"run": run, "threads": threads, **settings}
        with suppress(RunnerError):  # the check says why
            if compiled:
                write(arguments.out, {"kind": "compile", **key, **compile_seconds(compiled, work, threads, arguments)})
        with ExitStack() as stack:
            runners = check_all(specs, work, key, references, arguments, stack)
            time_all(runners, work, key, arguments)


def read_ids(arguments: argparse.Namespace) -> list[int]:
    """The first tokens of the second half of the text."""
    _, tokenizer = sa.load(arguments.model, device="cpu")
    text = load_text(arguments.text)
    ids: list[int] = tokenizer(text[len(text) // 2 :], add_special_tokens=False, verbose=False).input_ids
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    if len(ids) < arguments.context or arguments.prompt >= arguments.context:
        raise InputError(
            f"--text: {len(ids)} tokens in its second half; --context {arguments.context} is more than that, "
            f"or not more than --prompt {arguments.prompt}"
        )
    return ids[: arguments.context]


def check_all(
    specs: Sequence[Spec],
    work: Work,
    key: dict[str, Any],
    references: References,
    arguments: argparse.Namespace,
    stack: ExitStack,
) -> list[Runner]:
    """Start every engine that can be, and keep those whose perplexity is right; a row for each."""
    kept = []
    for spec in tqdm(specs, desc=f"perplexity, {key['threads']} thread(s)"):
        row: dict[str, Any] = {"kind": "check", **key, "runner": str(spec)}
        try:
            runner = stack.enter_context(start(spec, work, key["threads"], arguments))
            weights = arguments.model if spec.dtype == "file" else model_of(spec, arguments)
            row["dense_perplexity"] = references.of(arguments.model, None)["decode"]
            row |= admit(runner, work, references.of(weights, spec.recipe))
            if row["refused"] is None:
                kept.append(runner)
            else:
                runner.close()
        except (RunnerError, InputError) as error:
            row["refused"] = str(error)
        write(arguments.out, row)
        if row["refused"]:
            print(f"no speed of {spec}: {row['refused']}", file=sys.stderr, flush=True)
    return kept


def compile_seconds(spec: Spec, work: Work, threads: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds from the start of the process to the first token after the prompt, with and without compiling."""
    found = {}
    with TemporaryDirectory() as folder:
        for name in ("first", "cached"):
            with start(spec, work, threads, arguments, environment={"NUMBA_CACHE_DIR": folder}) as runner:
                found[name] = runner.load_seconds + first_use(runner, work)
    return found


def start(spec: Spec, work: Work, threads: int, arguments: argparse.Namespace, **options: Any) -> Runner:
    """A runner in the Python that has its engine."""
    is_peer = spec.engine in PEERS
    if is_peer and not arguments.peers_python.exists():
        raise InputError(f"--peers-python: no {arguments.peers_python}; make it with: make bench-peers")
    model = model_of(spec, arguments)
    return Runner(
        spec,
        model,
        threads=threads,
        context=work.context,
        python=arguments.peers_python if is_peer else sys.executable,
        bytes_per_token=gguf_bytes(Path(model)) if is_peer else None,
        **options,
    )


def model_of(spec: Spec, arguments: argparse.Namespace) -> str:
    """What an engine loads: peers a GGUF file of its type, which is also what its reference loads."""
    if spec.engine not in PEERS:
        return str(arguments.model)
    shipped = gguf_path(arguments.model) if arguments.model in BUILTIN else Path(arguments.model)
    if shipped.suffix != ".gguf":
        raise InputError(f"--model {arguments.model}: {spec.engine} needs a GGUF file")
    if spec.dtype == "file":
        return str(shipped)
    target = arguments.gguf_folder / f"{shipped.stem}.{spec.dtype}.gguf"
    if not target.exists():
        requantise(shipped, target, spec.dtype, arguments.peers_python)
    return str(target)


def requantise(shipped: Path, target: Path, dtype: str, python: Path) -> None:
    """Make the GGUF file of another type by llama.cpp's quantiser."""
    script = Path(__file__).with_name("requantise.py")
    with write_atomically(target) as partial:
        done = subprocess.run(
            [str(python), str(script), str(shipped), str(partial), dtype], capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise InputError(f"{target.name} cannot be made: {said[-1]}")


def gguf_bytes(path: Path) -> int:
    """Bytes of weights that a dense engine reads for a token: all, but the embedding where the head has its own."""
    tensors = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
    if "output.weight" in tensors:
        tensors.pop("token_embd.weight")
    return sum(tensors.values())


def time_all(runners: Sequence[Runner], work: Work, key: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Rounds of all engines and of the memory's bandwidth, each in an order of its own."""
    done = rounds_done(arguments.out, key, {str(runner.spec) for runner in runners})
    bandwidth = Bandwidth(key["threads"])
    for number in tqdm(range(done, arguments.rounds), desc=f"rounds, {key['threads']} thread(s)"):
        order: list[Runner | Bandwidth] = [bandwidth, *runners]
        random.Random(f"{arguments.seed} {key['threads']} {number}").shuffle(order)
        rows = []
        for what in order:
            if isinstance(what, Runner):
                row = {"kind": "sample", "runner": str(what.spec), **sample(what, work, key["threads"])}
            else:
                row = {"kind": "bandwidth", "bytes_per_second": what.measure()}
            rows.append(key | {"round": number} | row)
        write(arguments.out, *rows)


def rounds_done(path: Path, key: dict[str, Any], runners: set[str]) -> int:
    """How many rounds with the same settings and all these runners there are."""
    rounds: dict[tuple[str, int], set[str]] = {}
    settings = {name: value for name, value in key.items() if name != "run"}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == "sample" and all(row[name] == value for name, value in settings.items()):
            rounds.setdefault((row["run"], row["round"]), set()).add(row["runner"])
    return sum(runners <= found for found in rounds.values())


def write(path: Path, *rows: dict[str, Any]) -> None:
    """Append rows, all at once."""
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
