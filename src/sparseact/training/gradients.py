"""Gradients through a mask: y = x m with dy/dx = m (mask) or 1 (straight through); y = (|x| - theta)+ sign x (soft)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def mask_only(x: Tensor, on: Tensor) -> Tensor:
    """X where on, else 0; only what is on has a gradient."""
    return torch.where(on, x, torch.zeros((), dtype=x.dtype, device=x.device))


def straight_through(x: Tensor, on: Tensor) -> Tensor:
    """X where on, else 0; the gradient passes as if all were on (Bengio et al. 2013, arXiv 1308.3432)."""
    passed: Tensor = _StraightThrough.apply(x, on)
    return passed


def soft(x: Tensor, theta: Tensor) -> Tensor:
    """(|x| - theta)+ sign x: continuous; theta has a gradient, -sign x where it is on (Spark, arXiv 2506.06644)."""
    return torch.sign(x) * (x.abs() - theta).clamp(min=0)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor, on: Tensor) -> Tensor:
        return mask_only(x, on)

    @staticmethod
    def backward(_: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0], None
