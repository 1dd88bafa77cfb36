"""A rival at 4 bits that is rounded with care: auto-round's GGUF file of a model, for `bench` beside the plain ones.

llama.cpp's quantiser rounds each weight to the nearest number; auto-round learns which way to round each, on a text.
That needs no hub, but its package in some Python, and much time:

    .venv-peers/bin/python -m pip install auto-round==0.16.1 sentencepiece
    python benchmarks/auto_round.py --text train.txt --out runs/gguf/smollm2-auto-round-q4_0.gguf
    sparseact bench --model runs/gguf/smollm2-auto-round-q4_0.gguf --dtype file --against llama.cpp --text valid.txt

The built-in model is shipped in Q4_1; what is rounded here are its values, as with the other types of `bench`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from sparseact.bench.convert import failure
from sparseact.bench.peers import BUILT
from sparseact.data.readers import read_text
from sparseact.errors import InputError
from sparseact.models import load
from sparseact.utils.files import write_atomically

CHARACTERS = 8
"""Of a text for each token of a sample, so that none comes out too short; auto-round drops those."""


def main() -> None:
    """Make the file."""
    try:
        make(parse())
    except InputError as error:
        raise SystemExit(str(error)) from error


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a built-in name, a folder or a GGUF file")
    parser.add_argument("--text", type=Path, required=True, help="a text file; its first half is learned from")
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file")
    parser.add_argument("--type", default="q4_0", choices=("q4_0", "q4_1", "q4_k_s"))
    parser.add_argument("--iterations", type=int, default=200, help="steps of each layer; 0 rounds to the nearest")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=512, help="of a sample")
    parser.add_argument("--peers-python", type=Path, default=BUILT, help="the Python that has auto-round")
    return parser.parse_args()


def make(arguments: argparse.Namespace) -> None:
    """Save the model as transformers has it, let auto-round round it, and keep its file.

    Raises:
        InputError: the text is too short, or auto-round failed.
    """
    found = samples(read_text(arguments.text), arguments.samples, arguments.tokens)
    model, tokenizer = load(arguments.model, device="cpu", dtype="float32")
    with TemporaryDirectory() as name:
        folder, made = Path(name, "model"), Path(name, "made")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        data = Path(name, "text.json")
        data.write_text(json.dumps([{"text": sample} for sample in found]), encoding="utf-8")
        if reason := failure(arguments.peers_python, *command(arguments, folder, data, made)):
            raise InputError(f"auto-round cannot make it: {reason}")
        files = sorted(made.rglob("*.gguf"))
        if len(files) != 1:
            raise InputError(f"auto-round made {len(files)} GGUF files, and one was expected")
        with write_atomically(arguments.out) as partial:
            partial.write_bytes(files[0].read_bytes())


def samples(text: str, count: int, tokens: int) -> list[str]:
    """Pieces of the first half of a text, for perplexity is measured on the second.

    Raises:
        InputError: it is too short for one.
    """
    length, half = CHARACTERS * tokens, text[: len(text) // 2]
    found = [half[first : first + length] for first in range(0, len(half) - length + 1, length)]
    if not found:
        raise InputError(f"text: {len(half)} characters in its first half are too few for {tokens} tokens")
    return found[:count]


def command(arguments: argparse.Namespace, folder: Path, data: Path, made: Path) -> list[str]:
    """What the other Python runs."""
    kind = ["--scheme", f"GGUF:{arguments.type.upper()}", "--format", f"gguf:{arguments.type}", "--device", "cpu"]
    effort = [
        "--iters",
        str(arguments.iterations),
        "--nsamples",
        str(arguments.samples),
        "--seqlen",
        str(arguments.tokens),
    ]
    rounding = ["--disable_opt_rtn"] if arguments.iterations == 0 else []
    paths = ["--model", str(folder), "--dataset", str(data), "--output_dir", str(made)]
    return ["-m", "auto_round", *paths, *kind, *effort, *rounding]


if __name__ == "__main__":
    main()
