"""A text as windows, and a model's logits for their tokens, read together or one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sparseact.errors import InputError, unknown_name

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

LOGITS_AT_ONCE = 2**24
"""Logits of one forward pass: where the vocabulary is large (Gemma: 262144) a window is read in pieces."""

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Window:
    """Tokens to read, and where among them the predicted ones begin.

    Attributes:
        ids: [1, tokens], the BOS token first if the tokenizer has one.
        first: index of the first token that is predicted; those before it are its context only.
    """

    ids: Tensor
    first: int


def check_sizes(model: PreTrainedModel, context: int, stride: int | None, phase: Phase) -> tuple[int, int]:
    """Context and stride, no more than the model allows.

    Raises:
        InputError: an option is out of range.
    """
    if phase not in ("prefill", "decode"):
        raise unknown_name("phase: unknown phase", phase, ("prefill", "decode"))
    context = min(context, getattr(model.config.get_text_config(), "max_position_embeddings", context))
    if context < 3:
        raise InputError(f"context: {context} tokens are too few; at least 3 are needed")
    if stride is None:
        stride = context // 2 if phase == "decode" else context - 1
    if not 1 <= stride < context:
        raise InputError(f"stride: {stride} is not between 1 and {context - 1}, one less than the context")
    return context, stride


def cut_text(
    tokenizer: PreTrainedTokenizerBase, text: str, *, context: int, stride: int, phase: Phase, limit: int | None = None
) -> list[Window]:
    """Cut a text into windows, `stride` tokens apart, which predict each token once at most.

    In the prefill phase that is every token (but the first, where no BOS token stands before it); in the
    decode phase a window predicts its last `stride` tokens, so that there is a prompt before them.

    Raises:
        InputError: there is nothing to predict.
    """
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False).input_ids
    bos = [] if tokenizer.bos_token_id is None else [ids.new_tensor([[tokenizer.bos_token_id]])]
    own, total, predicted = context - len(bos), ids.shape[1], 1 - len(bos)
    windows = []
    for start in range(0, total, stride):
        end = min(start + own, total)
        first = max(predicted, start + 1 - len(bos), end - stride if phase == "decode" else 0)
        if first < end:
            windows.append(Window(torch.cat([*bos, ids[:, start:end]], dim=1), first - start + len(bos)))
        predicted = end
        if end == total:
            break
    if not windows:
        raise InputError(f"text: {total} tokens leave nothing to predict; a longer text is needed")
    if limit is not None and len(windows) > limit:
        windows = [windows[place] for place in torch.linspace(0, len(windows) - 1, limit).long().tolist()]
    return windows


def read_together(model: PreTrainedModel, window: Window) -> Iterator[Tensor]:
    """Logits [tokens, vocabulary] of the predicted tokens, piece by piece, all tokens of a piece at once."""
    ids, cache = window.ids.to(model.device), _empty_cache(model)
    for start, end in _pieces(model, window):
        wanted = end - max(start, window.first - 1)
        output = model(ids[:, start:end], past_key_values=cache, use_cache=True, logits_to_keep=max(wanted, 1))
        if wanted > 0:
            yield output.logits[0, -wanted:]


def read_one_by_one(model: PreTrainedModel, window: Window) -> Iterator[Tensor]:
    """The same logits when the predicted tokens are decoded after the others."""
    ids, cache = window.ids.to(model.device), _empty_cache(model)
    first = window.first - 1  # reading this token predicts the first one
    if first:
        model(ids[:, :first], past_key_values=cache, use_cache=True, logits_to_keep=1)
    for start, end in _pieces(model, window):
        steps = [
            model(ids[:, step : step + 1], past_key_values=cache, use_cache=True).logits[0]
            for step in range(max(start, first), end)
        ]
        if steps:
            yield torch.cat(steps)


def _pieces(model: PreTrainedModel, window: Window) -> list[tuple[int, int]]:
    """Ranges of the inputs to read one after the other, about equal, so that none is a single token."""
    at_once = max(4, LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)
    inputs = window.ids.shape[1] - 1  # nothing is predicted after the last token
    parts = -(-inputs // at_once)
    return list(pairwise(inputs * part // parts for part in range(parts + 1)))


def _empty_cache(model: PreTrainedModel) -> DynamicCache:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)
