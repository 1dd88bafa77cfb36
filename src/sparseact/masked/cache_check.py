"""Whether a model's cache of keys and values is what the rest takes it for: tried once per model, on a few tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.quiet import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS, PROMPT = 8, 5
"""Of the trial, and those of them that are read at once; the others follow two together and one alone."""

_REASONS: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()
"""Of the models that were tried: what is wrong, or nothing."""

_SPARSE: list[PreTrainedModel] = []
"""Models that are not to be tried now."""


def check_cache(model: PreTrainedModel) -> None:
    """Refuse a model that says something else after a cached text than after the same text read anew.

    Raises:
        UnsupportedModelError: it ignores the cache, or keeps something else in it.
    """
    if model not in _REASONS:
        if any(sparse is model for sparse in _SPARSE):
            return
        _REASONS[model] = _what_is_wrong(model)
    if reason := _REASONS[model]:
        raise UnsupportedModelError(f"model: {type(model).__name__}: {reason}, on which all measurements here stand")


def keeps_states(model: PreTrainedModel) -> bool:
    """Whether a text goes on from states alone, which do not say how long it is (Mamba), not from keys and values."""
    return "cache_params" in signature(model.forward).parameters


@contextmanager
def not_now(model: PreTrainedModel) -> Iterator[None]:
    """Leave out the trial inside the block: the model is sparse, for single tokens in another way than for several."""
    _SPARSE.append(model)
    try:
        yield
    finally:
        _SPARSE.remove(model)


def trial_tokens(model: PreTrainedModel) -> Tensor:
    """A few different tokens [1, TOKENS] of the model's vocabulary."""
    return (torch.arange(TOKENS, device=model.device) * 7 + 5)[None] % model.config.get_text_config().vocab_size


def is_close(found: Tensor, wanted: Tensor) -> bool:
    """Whether two results of the same sums in another order are equal as far as the dtype can say."""
    precision = 1e-3 if wanted.element_size() > 2 else 0.1
    return float((found - wanted).abs().max()) <= precision * float(wanted.abs().max()) + 1e-12


@torch.no_grad()
def _what_is_wrong(model: PreTrainedModel) -> str:
    from transformers import DynamicCache

    if keeps_states(model):
        return "it hands out states, not a cache of keys and values"
    ids, was_training = trial_tokens(model), model.training
    model.eval()
    try:
        whole = model(input_ids=ids, use_cache=False).logits
        cache = DynamicCache(config=model.config)
        parts = [
            model(input_ids=part, past_key_values=cache, use_cache=True).logits
            for part in (ids[:, :PROMPT], ids[:, PROMPT:-1], ids[:, -1:])
        ]
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  a model raises what it likes
        return f"it does not run with a cache of keys and values ({first_line(error)})"
    finally:
        model.train(was_training)
    found = torch.cat(parts, dim=1)
    if not bool((found + whole).isfinite().all()):  # said where its logits are read
        return ""
    return "" if is_close(found, whole) else "its logits differ with cached keys and values"
