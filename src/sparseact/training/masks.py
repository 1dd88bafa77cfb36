"""budget_mask: on so that a budget is met along an axis: m = top-k(x), or x > mean + std Phi^-1(1 - k/n).

The axis says over what the budget runs: a token's neurons (top-k), a token's blocks of neurons (experts), a unit's
tokens (feature choice, arXiv 2411.02124), or all of a batch (mutual choice, there; BatchTopK).
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal, get_args

import torch
from torch import Tensor

from sparseact.errors import InputError, unknown_name
from sparseact.masked.selectors import highest

Axis = Literal["neuron", "block", "token", "batch"]
Method = Literal["exact", "statistical"]


def budget_mask(x: Tensor, k: int, axis: Axis = "neuron", method: Method = "exact", *, block: int = 1) -> Tensor:
    """Which units are on.

    Args:
        x: [..., tokens, units], higher is kept.
        k: neurons or blocks of each token, tokens of each unit, or units of the whole batch that are on.
        axis: what is counted.
        method: `exact` keeps k, ties by the lower index; `statistical` keeps what is above the normal quantile of the
            mean and population standard deviation along the axis: no sort, about k.
        block: neurons of a block; its score is the sum of their squares.

    Returns:
        bool, the shape of x.

    Raises:
        InputError: an unknown axis or method, k out of range, or blocks that do not divide the units.
    """
    for name, given, valid in (("axis", axis, get_args(Axis)), ("method", method, get_args(Method))):
        if given not in valid:
            raise unknown_name(name, given, valid)
    if axis == "block":
        if x.shape[-1] % block:
            raise InputError(f"block: {x.shape[-1]} units are not a multiple of {block}")
        energy = x.unflatten(-1, (-1, block)).square().sum(dim=-1)
        return _top(energy, k, method).repeat_interleave(block, dim=-1)
    if axis == "token":
        return _top(x.mT, k, method).mT
    if axis == "batch":
        return _top(x.flatten(), k, method).view_as(x)
    return _top(x, k, method)


def _top(x: Tensor, k: int, method: str) -> Tensor:
    """The highest along the last axis."""
    count = x.shape[-1]
    if not 0 <= k <= count:
        raise InputError(f"k: {k} is not between 0 and {count}")
    if k in (0, count):
        return torch.full_like(x, bool(k), dtype=torch.bool)
    if method == "exact":
        return highest(x, k)
    mean, spread = x.mean(dim=-1, keepdim=True), x.std(dim=-1, correction=0, keepdim=True)
    return x > mean + spread * NormalDist().inv_cdf(1 - k / count)
