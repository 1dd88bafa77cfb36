"""Text from a model, dense or sparse, piece by piece as it comes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from sparseact.data import check_context, encode_prompt
from sparseact.decoding import evaluation_mode, stop_tokens
from sparseact.errors import InputError
from sparseact.models.quiet import quiet
from sparseact.policies.recipe import Recipe
from sparseact.sites import weight_bytes


@dataclass(frozen=True)
class Generated:
    """What `generate_text` wrote, and what it read for that.

    Attributes:
        text: without the prompt.
        tokens: how many new tokens.
        prompt_tokens: how many the prompt has.
        achieved: share of the gated weight bytes that decoding did not read; 0 without a recipe.
        bytes_per_token: weight bytes read for a decoded token.
    """

    text: str
    tokens: int
    prompt_tokens: int
    achieved: float
    bytes_per_token: float


def generate_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    recipe: Recipe | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = True,
    on_text: Callable[[str], object] = lambda text: None,
) -> Generated:
    """Continue or answer a prompt with transformers' `generate`, under a recipe if one is given.

    Args:
        temperature: 0 takes the most likely token, else tokens are sampled.
        top_k: sample among so many of the most likely tokens; 0 among all.
        top_p: sample among the fewest most likely tokens that hold this share of the probability.
        seed: of the sampling.
        chat: put the prompt into the tokenizer's chat template, if it has one.
        on_text: called with each piece of text as soon as it is certain.

    Raises:
        InputError: an option is out of range, the prompt does not fit, or the recipe is another model's.
    """
    if not temperature >= 0:
        raise InputError(f"--temperature: {temperature} is negative")
    if top_k < 0:
        raise InputError(f"--top-k: {top_k} is negative")
    if not 0 < top_p <= 1:
        raise InputError(f"--top-p: {top_p} is not in (0, 1]")
    ids = encode_prompt(tokenizer, prompt, chat=chat).to(model.device)
    check_context(model.config, ids.shape[1], max_new_tokens, 0)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    with (
        torch.random.fork_rng([model.device] if model.device.type == "cuda" else []),
        evaluation_mode(model),
        quiet(),  # what a generation config says of sampling is overridden on purpose
        recipe(model) if recipe is not None else nullcontext() as density,
    ):
        torch.manual_seed(seed)
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            pad_token_id=min(stop_tokens(model), default=0),
            streamer=_Streamer(tokenizer, on_text),
            **sampling,
        )[0, ids.shape[1] :]
    return Generated(
        text=tokenizer.decode(written, skip_special_tokens=True),
        tokens=len(written),
        prompt_tokens=ids.shape[1],
        achieved=density.achieved("decode") if density else 0.0,
        bytes_per_token=density.bytes_per_token("decode") if density else weight_bytes(model),
    )


class _Streamer(TextStreamer):
    """Hands text on instead of printing it."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: FBT001, FBT002 - transformers'
        self._on_text(text)
