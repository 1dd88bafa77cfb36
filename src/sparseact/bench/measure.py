"""A whole measurement in one call: the text, the check of every runner, the rounds, what is made of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sparseact.bench.energy import open_meter
from sparseact.bench.peers import setup
from sparseact.bench.runner import RunnerError
from sparseact.bench.session import References, Row, Work, check_all, time_all
from sparseact.bench.spec import Spec
from sparseact.bench.summary import Group, summarise
from sparseact.data import load_text
from sparseact.models import load, load_tokenizer
from sparseact.policies import write_text
from sparseact.utils.environment import describe


def read_work(model: str, text: str | None, *, context: int, prompt: int, tokens: int, seed: int) -> Work:
    """What all engines do, on the second half of a text.

    Args:
        model: what `sparseact.load` takes.
        text: a file; None for answers of the model itself, other ones than those that `calibrate` writes at this seed.
        context: tokens of the text that perplexity is measured on, the prompt among them.
        prompt: tokens that are read before decoding.
        tokens: that are decoded.
        seed: of the model's own answers.

    Raises:
        InputError: no such model or file, or the text is too short.
    """
    if text is None:
        language_model, tokenizer = load(model, device="cpu")
        written = write_text(language_model, tokenizer, tokens=2 * context + 256, seed=seed + 1)
    else:
        (tokenizer, _), written = load_tokenizer(model), load_text(text)
    return Work.of_text(tokenizer, written, context=context, prompt=prompt, tokens=tokens)


def settings(model: str, work: Work) -> dict[str, Any]:
    """What a row says about the measurement that it is part of; see summary.SETTINGS."""
    return {
        "model": model,
        "text_sha256": hashlib.sha256(json.dumps(list(work.ids)).encode()).hexdigest()[:16],
        "prompt": work.prompt,
        "tokens": work.tokens,
        "context": len(work.ids),
    }


def environment() -> dict[str, Any]:
    """What it runs on, how busy that was, and whether it tells its energy."""
    return describe() | {"load_average": os.getloadavg()[0], "energy": open_meter().said}


def measure(
    model: str,
    specs: Sequence[Spec],
    *,
    peers_python: Path | None = None,
    text: str | None = None,
    context: int = 384,
    prompt: int = 128,
    tokens: int = 64,
    threads: int,
    rounds: int = 5,
    seed: int = 0,
) -> Group:
    """Check every runner, then time all in turn; samples that shared the cores count too.

    Args:
        model: what `sparseact.load` takes.
        specs: what is measured, see `spec.runners`.
        peers_python: see `peers.setup`.
        text, context, prompt, tokens: see `read_work`.
        threads: of each runner.
        rounds: how often everything is timed.
        seed: draws the model's own answers and the order in a round.

    Raises:
        InputError: no such model or file; a runner says that it cannot do this; a peer is not installed.
        RunnerError: none is right, or one ended amid the rounds.
    """
    where = setup(model, peers_python, specs)
    work = read_work(model, text, context=context, prompt=prompt, tokens=tokens, seed=seed)
    of_all = {"run": "", **settings(model, work)}
    rows: list[Row] = [{"kind": "run", **of_all, "environment": environment()}]

    def record(*new: Row) -> None:
        rows.extend(of_all | row for row in new)

    with ExitStack() as stack:
        runners = check_all(specs, References(where, work, threads), threads, record, stack, strict=True)
        if not runners:
            reasons = (f"{row['runner']}: {row['refused']}" for row in rows if row.get("refused"))
            raise RunnerError(f"no engine could be measured: {'; '.join(reasons)}")
        time_all(runners, work, threads, range(rounds), seed, record)
    (group,) = summarise(rows, disturbed=True)
    return group
