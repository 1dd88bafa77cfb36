"""Text from a model, piece by piece as it comes, whatever runs it: one loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from sparseact.data import check_room, prompt_ids
from sparseact.errors import InputError
from sparseact.generation.backend import Backend
from sparseact.generation.generated import Generated
from sparseact.generation.sampler import Sampler, check_finite
from sparseact.generation.sampling import Sampling
from sparseact.generation.stream import TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparseact.recipes.recipe import Recipe

LOSSLESS_IS_GREEDY = "lossless: takes the most likely token; leave out `temperature` and `repetition_penalty`"


def generate(
    model: PreTrainedModel | Backend,
    tokenizer: Any,
    prompt: str,
    *,
    recipe: Recipe | None = None,
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
    """Continue or answer a prompt. Greedy text is that of transformers' `generate`; a seed draws the same everywhere.

    Args:
        model: a model of transformers, or an engine, which begins a new text and counts anew.
        tokenizer: of the model, see `sparseact.models.load_tokenizer`.
        recipe: what to leave out of a model of transformers; an engine has its own from the beginning.
        max_new_tokens: at least 1.
        temperature, top_k, top_p, min_p, repetition_penalty, seed: see `sparseact.generation.sampling.Sampling`.
            A model's generation config has no say in them.
        stop: strings that end the text before them; they may be or hold special tokens, such as "<|im_end|>".
        ends: token ids that end the text; all that the model's files or its generation config name if None, or the
            tokenizer's where they name none.
        chat: put the prompt into the tokenizer's chat template, if it has one.
        on_text: called with each piece of text as soon as it is certain.

    Raises:
        InputError: an option is out of range, the prompt does not fit, or the recipe is another model's.
    """
    sampling = Sampling(repetition_penalty, temperature, top_k, top_p, min_p, seed)
    backend: AbstractContextManager[Backend]
    if isinstance(model, Backend):
        if recipe is not None:
            raise InputError("recipe: an engine has its own from the beginning; give it to Engine.from_model")
        backend = nullcontext(model)
    else:
        from sparseact.generation.masked import masked

        backend = masked(model, recipe)
    with backend as runs:
        if ends is None:
            ends = runs.ends or {tokenizer.eos_token_id}
        return write(
            runs,
            tokenizer,
            prompt,
            sampling,
            max_new_tokens=max_new_tokens,
            stop=stop,
            ends=ends,
            chat=chat,
            on_text=on_text,
        )


def write(
    backend: Backend,
    tokenizer: Any,
    prompt: str,
    sampling: Sampling,
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    ends: Collection[int],
    chat: bool,
    on_text: Callable[[str], object],
) -> Generated:
    """As `generate`, by a backend."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens: {max_new_tokens} is not at least 1")
    if backend.lossless and not sampling.greedy:
        raise InputError(LOSSLESS_IS_GREEDY)
    ids = prompt_ids(tokenizer, prompt, chat=chat)
    stream = TextStream(tokenizer, stop, on_text, before=ids)
    if backend.context is not None:
        check_room(backend.context, len(ids), max_new_tokens)

    backend.reset()
    started = time.perf_counter()
    count, first, last = 0, started, started
    for count, token in enumerate(_tokens(backend, ids, sampling), start=1):
        last = time.perf_counter()
        first = last if count == 1 else first
        if stream.add(token) or token in ends or count == max_new_tokens:
            break
    return Generated(
        text=stream.end(),
        tokens=count,
        prompt_tokens=len(ids),
        achieved=backend.achieved(),
        bytes_per_token=backend.bytes_per_token(),
        prefill_seconds=first - started,
        decode_seconds=last - first,
        density=backend.density_by_layer(),
        head_bytes=backend.head_bytes_per_token() if backend.screen else None,
        acceptance=backend.acceptance(),
    )


def _tokens(backend: Backend, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """The text's new tokens, without an end. A token is run when the next one is asked for."""
    logits = backend.prefill(ids)
    if sampling.greedy:
        check_finite(logits)
        while True:
            yield backend.greedy(1)[0]
    sampler, seen = Sampler(sampling), list(ids)
    while True:
        token = sampler.choose(logits, seen)
        yield token
        seen.append(token)
        logits = backend.step(token)
