"""Top-k: keep the k units with the highest scores of each token; ties go to the lower index."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparseact.errors import InputError


def ranks(scores: Tensor) -> Tensor:
    """Rank of every unit [..., units], int32: 0 is the highest score, ties by index.

    One ranking gives the masks of all levels: `ranks(scores) < keep_count(units, sparsity)`.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(scores.shape[-1], dtype=torch.int32, device=scores.device)
    return torch.empty_like(order, dtype=torch.int32).scatter_(-1, order, places.expand(order.shape))


def keep_count(units: int, sparsity: float) -> int:
    """Units to keep at a requested sparsity: the nearest possible, half a unit rounding to sparser.

    Raises:
        InputError: the sparsity is not in [0, 1].
    """
    if not 0 <= sparsity <= 1:
        raise InputError(f"--sparsity: {sparsity} is not between 0 and 1")
    return units - math.floor(sparsity * units + 0.5)


def topk_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Which units of each token stay on: bool, the shape of `scores`."""
    return ranks(scores) < keep_count(scores.shape[-1], sparsity)
