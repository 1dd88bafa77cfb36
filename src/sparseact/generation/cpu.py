"""Text from the engine, piece by piece as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from sparseact.data import check_room, prompt_ids
from sparseact.engine.engine import Engine
from sparseact.errors import InputError
from sparseact.generation.sampler import Sampler
from sparseact.generation.stream import Generated, Sampling, TextStream


def generate(
    engine: Engine,
    tokenizer: Any,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    ends: Collection[int] | None = None,
    chat: bool = True,
    on_text: Callable[[str], object] = lambda text: None,
) -> Generated:
    """Continue or answer a prompt; greedy text is that of transformers' `generate`.

    Args:
        engine: begins a new text, and counts anew.
        tokenizer: of transformers, see `sparseact.models.load_tokenizer`.
        max_new_tokens: at least 1.
        temperature, top_k, top_p, min_p, repetition_penalty, seed: see `sparseact.generation.stream.Sampling`.
        stop: strings that end the text before them.
        ends: token ids that end the text; the tokenizer's own if None.
        chat: put the prompt into the tokenizer's chat template, if it has one.
        on_text: called with each piece of text as soon as it is certain.

    Raises:
        InputError: an option is out of range, or the prompt does not fit.
    """
    sampling = Sampling(repetition_penalty, temperature, top_k, top_p, min_p, seed)
    stream = TextStream(tokenizer, stop, on_text)
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens: {max_new_tokens} is not at least 1")
    ids = prompt_ids(tokenizer, prompt, chat=chat)
    check_room(engine.context, len(ids), max_new_tokens)
    if engine.lossless and not sampling.greedy:
        raise InputError("lossless: takes the most likely token, so temperature is 0 and repetition_penalty is 1")
    ends = {tokenizer.eos_token_id} if ends is None else ends

    engine.reset()
    started = time.perf_counter()
    count, first, last = 0, started, started
    for count, token in enumerate(_tokens(engine, ids, sampling), start=1):
        last = time.perf_counter()
        first = last if count == 1 else first
        if stream.add(token) or token in ends or count == max_new_tokens:
            break
    return Generated(
        text=stream.end(),
        tokens=count,
        prompt_tokens=len(ids),
        achieved=1 - _density(engine, lambda linear: "all").get("all", 1.0),
        bytes_per_token=engine.bytes_per_token(),
        prefill_seconds=first - started,
        decode_seconds=last - first,
        density=_density(engine, _layer),
        head_bytes=engine.head_bytes_per_token() if engine.screen else None,
        acceptance=engine.acceptance(),
    )


def _tokens(engine: Engine, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """The text's new tokens, without an end. A token is run when the next one is asked for."""
    logits = engine.prefill(ids)
    if sampling.greedy:
        while True:
            yield engine.greedy(1)[0]
    sampler, seen = Sampler(sampling), list(ids)
    while True:
        token = sampler.choose(logits, seen)
        yield token
        seen.append(token)
        logits = engine.step(token)


def _density(engine: Engine, group: Callable[[str], str]) -> dict[str, float]:
    """Share of the gated weight bytes that decoding read, for each group of linears."""
    gated: dict[str, float] = {}
    read: dict[str, float] = {}
    density = engine.density()
    for linear, size in engine.gated_bytes().items():
        name = group(linear)
        gated[name] = gated.get(name, 0) + size
        read[name] = read.get(name, 0) + size * density[linear]
    return {name: read[name] / size for name, size in gated.items()}


def _layer(linear: str) -> str:
    """The layer's number of a linear such as 3.down; the head of the model has none."""
    layer, dot, _ = linear.partition(".")
    return layer if dot else "head"
