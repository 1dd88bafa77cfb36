"""Text that the dense model writes for its own training, by the engine: resumable, in parts in a folder.

What a policy is calibrated on is a page of answers, which need no engine: see `sparseact.calibration.own_answers`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from sparseact.data import builtin_questions, prompt_ids
from sparseact.engine.engine import Engine
from sparseact.errors import InputError
from sparseact.generation.backend import Backend
from sparseact.generation.masked import masked
from sparseact.generation.sampler import Sampler
from sparseact.generation.sampling import Sampling
from sparseact.masked.decoding import stop_tokens
from sparseact.utils.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PART = 1024
"""Tokens of a part at least: what a stop can lose."""

LONGEST = 512
"""Tokens of one text at most."""


def write_own_text(
    model: PreTrainedModel, tokenizer: Any, folder: Path, *, tokens: int, seed: int, threads: int | None = None
) -> NDArray[np.int32]:
    """At least so many tokens, sampled at temperature 1: from the beginning token, and answers to built-in questions.

    Args:
        folder: where its parts are kept; those that are there are not written again.
        tokens: how many are needed.
        seed: of the sampling; the same seed gives the same text.
        threads: of the engine.

    Returns:
        int32 token ids, text after text with what ends each.
    """
    parts = _kept(folder, tokens)
    if sum(map(len, parts)) < tokens:
        with (
            _writer(model, threads) as backend,
            tqdm(
                total=tokens,
                initial=sum(map(len, parts)),
                desc="the dense model writes",
                unit="token",
                file=sys.stderr,
                disable=None,
            ) as bar,
        ):
            while sum(map(len, parts)) < tokens:
                part = np.array([*_part(model, tokenizer, backend, seed, len(parts), bar)], np.int32)
                with write_atomically(folder / f"part-{len(parts):05}.safetensors") as path:
                    save_file({"ids": part}, path)
                parts.append(part)
    return np.concatenate(parts)


def _kept(folder: Path, tokens: int) -> list[NDArray[np.int32]]:
    """The parts that are there, from the first on, no more than are needed."""
    parts: list[NDArray[np.int32]] = []
    while sum(map(len, parts)) < tokens and (path := folder / f"part-{len(parts):05}.safetensors").is_file():
        try:
            parts.append(load_file(path)["ids"].astype(np.int32))
        except Exception as error:  # a damaged file raises what its reader likes
            raise InputError(f"text: own: {path} is damaged ({error}); remove it, and it is written again") from error
    return parts


def _writer(model: PreTrainedModel, threads: int | None) -> AbstractContextManager[Backend]:
    """The engine, or torch for a family that it does not run."""
    try:
        return Engine.from_model(model, dtype="q8", threads=threads)
    except InputError:
        return masked(model, None)


def _part(model: PreTrainedModel, tokenizer: Any, backend: Backend, seed: int, part: int, bar: Any) -> Iterator[int]:
    ends, questions, written, index = stop_tokens(model), builtin_questions(), 0, 0
    while written < PART:
        draw = part * 1_000_003 + index  # of the seeds
        question = questions[(draw // 2) % len(questions)]["question"]
        first = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else [min(ends, default=0)]
        prompt = prompt_ids(tokenizer, question) if index % 2 else first
        room = min(LONGEST, (backend.context or LONGEST) - len(prompt))
        if room < 1:
            prompt, room = first, min(LONGEST, (backend.context or LONGEST) - 1)
        text = [*(prompt if index % 2 else []), *_sampled(backend, prompt, ends, room, seed + draw)]
        yield from text
        written, index = written + len(text), index + 1
        bar.update(len(text))


def _sampled(backend: Backend, prompt: Sequence[int], ends: frozenset[int], room: int, seed: int) -> Iterator[int]:
    """Tokens after a prompt, with the one that ends them."""
    sampler = Sampler(Sampling(temperature=1.0, seed=seed))
    backend.reset()
    logits = backend.prefill(prompt)
    for left in range(room - 1, -1, -1):
        token = sampler.choose(logits, ())
        yield token
        if token in ends or not left:
            return
        logits = backend.step(token)
