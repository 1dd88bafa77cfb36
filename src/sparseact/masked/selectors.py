"""Selectors on tensors: the fit finds a selector's numbers on calibration scores, the mask applies them to every token.

Ties go to the lower index where a count is exact. In compiled code the same masks stand in `engine.kernels.select`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparseact.recipes.selection import DEVIATIONS, HIGHEST, MASS, THRESHOLD
from sparseact.recipes.selectors import (
    BELOW_ALL,
    NOfM,
    Selector,
    StatisticalTopK,
    Threshold,
    TopK,
    TopP,
    keep_count,
)

QUANTILE_VALUES = 2**19
"""Scores that a quantile is taken of; more are thinned evenly."""


def fit(selector: Any, scores: Tensor, sparsity: float) -> Any:
    """The selector of the same kind that switches off the share `sparsity` of scores like these [tokens, units]."""
    match selector:
        case TopK():
            return TopK(sparsity)
        case NOfM(m=m):
            return replace(selector, n=keep_count(m, sparsity))
        case Threshold():  # the quantile of the pooled scores
            return Threshold(quantile(scores, sparsity) if sparsity > 0 else -1.0)
        case StatisticalTopK():  # on normal scores, the normal quantile
            return StatisticalTopK(quantile(_standardise(scores), sparsity) if sparsity > 0 else BELOW_ALL)
        case TopP() if sparsity > 0:  # a unit is on if the higher ones hold less than the mass
            ordered = scores.float().sort(dim=-1, descending=True).values
            total = ordered.sum(dim=-1, keepdim=True).clamp(min=1e-30)
            return TopP(quantile((ordered.cumsum(dim=-1) - ordered) / total, 1 - sparsity))
        case TopP():
            return TopP(1.0)
    raise TypeError(f"{selector!r} is no selector")


def mask(selector: Selector, scores: Tensor) -> Tensor:
    """Which units are on: bool, the shape of `scores` [..., units], which are not negative.

    Raises:
        InputError: of n of m, m does not divide the units.
    """
    selection = selector.selection(scores.shape[-1])
    if selection.rule == THRESHOLD:
        return scores > selection.number
    if selection.rule == DEVIATIONS:
        return _standardise(scores) > selection.number
    if selection.rule == MASS:
        return _holding(scores, selection.number)
    if selection.rule == HIGHEST:
        return highest(scores.unflatten(-1, (-1, selection.group)), selection.keep).flatten(-2)
    return torch.ones_like(scores, dtype=torch.bool)


def topk_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Which units of each token stay on: bool, the shape of `scores`."""
    return highest(scores, keep_count(scores.shape[-1], sparsity))


def highest(scores: Tensor, count: int) -> Tensor:
    """Which units [..., units] are the `count` highest, ties by index; `ranks(scores) < count` without a sort."""
    if not 0 < count < scores.shape[-1]:
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    least = scores.kthvalue(scores.shape[-1] - count + 1, dim=-1, keepdim=True).values
    on = scores >= least
    if int(on.sum()) == count * (scores.numel() // scores.shape[-1]):  # no row has fewer
        return on
    above, tied = scores > least, scores == least
    return above | (tied & (tied.cumsum(dim=-1) <= count - above.sum(dim=-1, keepdim=True)))


def ranks(scores: Tensor) -> Tensor:
    """Rank of every unit [..., units], int32: 0 is the highest score, ties by index.

    One ranking gives the masks of all levels: `ranks(scores) < keep_count(units, sparsity)`.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(scores.shape[-1], dtype=torch.int32, device=scores.device)
    return torch.empty_like(order, dtype=torch.int32).scatter_(-1, order, places.expand(order.shape))


def quantile(scores: Tensor, share: float) -> float:
    """The value below which `share` of all scores lie; exact up to `QUANTILE_VALUES` scores."""
    flat = _thinned(scores)
    return float(flat.kthvalue(_place(share, flat.numel())).values)


def quantiles(scores: Tensor, shares: Sequence[float]) -> Tensor:
    """`quantile` at several shares, in their order, with one sort."""
    ordered = _thinned(scores).sort().values
    return torch.stack([ordered[_place(share, ordered.numel()) - 1] for share in shares])


def _thinned(scores: Tensor) -> Tensor:
    stride = max(1, scores.numel() // QUANTILE_VALUES)
    while math.gcd(stride, scores.shape[-1]) > 1:  # else some units would never be looked at
        stride += 1
    return scores.flatten()[::stride].float()


def _place(share: float, values: int) -> int:
    """Counted from 1."""
    return min(values, max(1, round(share * values)))


def _standardise(scores: Tensor) -> Tensor:
    """(score - mean) / population standard deviation of each token's scores."""
    centred = scores - scores.mean(dim=-1, keepdim=True)
    return centred / centred.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)


def _holding(scores: Tensor, mass: float) -> Tensor:
    """On among the highest until their sum reaches the share `mass`."""
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    needed = before < mass * ordered.sum(dim=-1, keepdim=True)
    return torch.zeros_like(needed).scatter_(-1, order, needed)
