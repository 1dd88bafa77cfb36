"""How often a screened head finds another token than the whole head, and what it reads: a table in Markdown.

    python benchmarks/head_screening.py --text wikitext2-valid.txt

Each token is run twice at its place, with the whole head and with the screened one, by the engine's compiled
step: tokens of the second half of a text that is read, and tokens of the model's own greedy answers.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sparseact as sa
from sparseact.data import load_prompts, prompt_ids
from sparseact.engine.forward.state import FOUND
from sparseact.errors import InputError

WINDOW = 256
"""Tokens of a text that is read, and of an answer at most."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["smollm2", "gemma3"])
    parser.add_argument("--dtype", default="q8")
    parser.add_argument("--tokens", type=int, default=2048, help="of each kind")
    options = parser.parse_args()
    text = options.text.read_text(encoding="utf-8")
    cells = ("model", "tokens of", "tokens", "other token", "head, MB", "read of it", "MB / token", "screened")
    print("|", " | ".join(cells), "|")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.models:
        tokenizer, ends = sa.models.load_tokenizer(name)
        started = time.process_time()
        with sa.Engine.from_model(name, dtype=options.dtype, threads=1) as plain:
            loaded, memory = time.process_time() - started, plain.weight_bytes()
        started = time.process_time()
        with sa.Engine.from_model(name, dtype=options.dtype, threads=1, screen=True) as engine:
            made, more = time.process_time() - started - loaded, engine.weight_bytes() - memory
            for kind, texts in (
                ("Wikipedia", _read(tokenizer, text[len(text) // 2 :])),
                ("answers", _answered(tokenizer)),
            ):
                print(f"| {name} | {kind} |", _measure(engine, texts, ends, options.tokens), flush=True)
        print(f"\n{name}: the screen takes {more / 1e6:.1f} MB more memory and {made:.1f} s of a processor to make\n")


def _read(tokenizer: Any, text: str) -> Iterator[tuple[list[int], list[int]]]:
    """Windows of a text: what comes before, and the tokens to read."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else ids[:1]
    for first in range(0, len(ids), WINDOW):
        yield begin, ids[first : first + WINDOW]


def _answered(tokenizer: Any) -> Iterator[tuple[list[int], list[int]]]:
    """Questions, to which the answer is not known yet."""
    for question in load_prompts():
        try:
            ids = prompt_ids(tokenizer, question, chat=True)
        except InputError:  # a base model
            ids = prompt_ids(tokenizer, question, chat=False)
        yield list(ids), []


def _measure(engine: Any, texts: Iterator[tuple[list[int], list[int]]], ends: frozenset[int], wanted: int) -> str:
    """The cells of a row."""
    tokens = others = 0
    screened_head = screened_all = 0.0
    engine.reset()
    engine.step(0)
    head, everything = engine.head_bytes_per_token(), engine.bytes_per_token()
    for begin, given in texts:
        engine.reset()
        engine.prefill(begin)
        token, steps = given[0] if given else engine.greedy(1)[0], 0
        while steps < WINDOW and tokens + steps < wanted:
            expected, found = _both(engine, token)
            others += found != expected
            steps += 1
            if steps == len(given) or (not given and expected in ends):
                break
            token = given[steps] if given else expected
        tokens += steps
        # Every token was run with the whole head too.
        screened_head += steps * (2 * engine.head_bytes_per_token() - head)
        screened_all += steps * (2 * engine.bytes_per_token() - everything)
        if tokens == wanted:
            break
    return (
        f"{tokens} | {others} ({others / tokens:.2%}) | {head / 1e6:.1f} | "
        f"{screened_head / tokens / 1e6:.1f} ({screened_head / tokens / head:.0%}) | "
        f"{everything / 1e6:.1f} | {screened_all / tokens / 1e6:.1f} ({screened_all / tokens / everything:.0%}) |"
    )


def _both(engine: Any, token: int) -> tuple[int, int]:
    """The likeliest next token by the whole head, and by the screened one."""
    engine._chosen = None  # noqa: SLF001 - the same token again, at the same place
    expected = int(engine.step(token).argmax())
    engine._cache.length -= 1  # noqa: SLF001
    engine._run(token, screened=True)  # noqa: SLF001
    return expected, int(engine._buffers.control[FOUND])  # noqa: SLF001


if __name__ == "__main__":
    main()
