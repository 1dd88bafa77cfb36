"""What the one-pass method assumes of a model, tried once per model on a few tokens.

With the edges between positions cut, the loss at one position must have no gradient at another, and the gradient at its
own position must be that of the whole model (docs/one-pass.md). State-space layers carry positions past the cut, and
masks that are computed from the text take a part of the gradient that the cut loses.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from textwrap import shorten
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparseact.attribution.own_position import own_position_attention
from sparseact.errors import UnsupportedModelError
from sparseact.masked.cache_check import PROMPT, is_close, trial_tokens
from sparseact.masked.decoding import evaluation_mode, prefill, teacher_force
from sparseact.models.quiet import first_line
from sparseact.sites import Site, capture

_KNOWN: WeakKeyDictionary[PreTrainedModel, dict[str, str]] = WeakKeyDictionary()
"""Of the models that were tried: what is wrong, or nothing, by the sites' modules."""


def check_assumption(model: PreTrainedModel, sites: Sequence[Site]) -> None:
    """Refuse a model whose gradients at these sites one pass does not give.

    Raises:
        UnsupportedModelError: says which gradient is wrong.
    """
    known = _KNOWN.setdefault(model, {})
    unknown = {site.module: site for site in sites if site.module not in known}
    if unknown:
        known |= _try(model, [*unknown.values()])
    if reason := next(filter(None, (known[site.module] for site in sites)), ""):
        raise UnsupportedModelError(
            f"model: {type(model).__name__}: {reason}, so one pass does not give the gradients of all tokens"
        )


@torch.inference_mode(mode=False)
def _try(model: PreTrainedModel, sites: Sequence[Site]) -> dict[str, str]:
    """What is wrong, or nothing, by the sites' modules."""
    try:
        with evaluation_mode(model):
            cut, whole = (_gradients(model, sites, each) for each in (own_position_attention(model), nullcontext()))
    except RuntimeError as error:  # of autograd: states that are changed in place
        why = shorten(first_line(error), 80, placeholder=" ...")
        return dict.fromkeys((site.module for site in sites), f"no gradient comes from after cached tokens ({why})")
    return {site.module: _what_is_wrong(site, *pair) for site, *pair in zip(sites, cut, whole, strict=True)}


def _what_is_wrong(site: Site, cut: Tensor, whole: Tensor) -> str:
    """Of gradients [1, T, units, unit_size] of the last step's loss."""
    size = whole[:, -1].abs().max()
    if not bool(size.isfinite()):  # said where gradients are read
        return ""
    if not is_close(cut[:, :-1] + size, size.expand_as(cut[:, :-1])):
        return f"the loss at one position has a gradient at others in {site.module} past the cut"
    if not is_close(cut[:, -1], whole[:, -1]):
        return f"the gradient at its own position is another in {site.module} with the cut"
    return ""


def _gradients(
    model: PreTrainedModel, sites: Sequence[Site], context: AbstractContextManager[None]
) -> tuple[Tensor, ...]:
    """Gradients [1, T, units, unit_size] of the last step's loss."""
    ids = trial_tokens(model)
    prefix = prefill(model, ids[:, :PROMPT])
    with torch.enable_grad(), context, capture(model, sites, gradient=True) as x:
        logits = teacher_force(model, prefix, ids[:, PROMPT:])[0, -1].float()
        loss = torch.nn.functional.cross_entropy(logits, ids[0, -1])
        return torch.autograd.grad(loss, [x[site] for site in sites])
