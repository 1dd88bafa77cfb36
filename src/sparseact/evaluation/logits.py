"""A model's logits for the tokens of a window, read together or one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseact.data import context_of
from sparseact.data.windows import Window
from sparseact.errors import InputError, unknown_name
from sparseact.masked.cache_check import keeps_states
from sparseact.recipes.phases import Phase

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

LOGITS_AT_ONCE = 2**24
"""Logits of one forward pass: where the vocabulary is large (Gemma: 262144) a window is read in pieces."""


def check_sizes(model: PreTrainedModel, context: int, stride: int | None, phase: Phase) -> tuple[int, int]:
    """Context and stride, no more than the model allows.

    Raises:
        InputError: an option is out of range.
    """
    if phase not in ("prefill", "decode"):
        raise unknown_name("phase: unknown phase", phase, ("prefill", "decode"))
    context = min(context, context_of(model.config) or context)
    if context < 3:
        raise InputError(f"context: {context} tokens are too few; at least 3 are needed")
    if stride is None:
        stride = context // 2 if phase == "decode" else context - 1
    if not 1 <= stride < context:
        raise InputError(f"stride: {stride} is not between 1 and {context - 1}, one less than the context")
    return context, stride


def read_together(model: PreTrainedModel, window: Window) -> Iterator[Tensor]:
    """Logits [tokens, vocabulary] of the predicted tokens, piece by piece, all tokens of a piece at once."""
    ids = torch.tensor([window.ids], device=model.device)
    pieces, cached = _pieces(model, window), {"past_key_values": _empty_cache(model)}
    if keeps_states(model):
        pieces, cached = [(0, len(window.ids) - 1)], {}
    for start, end in pieces:
        wanted = end - max(start, window.first - 1)
        output = model(ids[:, start:end], **cached, use_cache=bool(cached), logits_to_keep=max(wanted, 1))
        if wanted > 0:
            yield output.logits[0, -wanted:]


def read_one_by_one(model: PreTrainedModel, window: Window) -> Iterator[Tensor]:
    """The same logits when the predicted tokens are decoded after the others."""
    ids, cache = torch.tensor([window.ids], device=model.device), _empty_cache(model)
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
    inputs = len(window.ids) - 1  # nothing is predicted after the last token
    parts = -(-inputs // at_once)
    return list(pairwise(inputs * part // parts for part in range(parts + 1)))


def _empty_cache(model: PreTrainedModel) -> DynamicCache:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)
