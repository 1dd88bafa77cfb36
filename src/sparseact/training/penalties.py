"""Penalties on activations, as means per token and unit, so that a coefficient means the same at every width.

The coefficients of papers are often of sums, and so are not these.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sparseact.errors import InputError


def l1(h: Tensor) -> Tensor:
    """Mean |h| (ProSparse, arXiv 2402.13516)."""
    return h.abs().mean()


def smooth_l0(h: Tensor, eps: float) -> Tensor:
    """Mean h^2 / (h^2 + eps): the share that is not 0, as eps goes to 0 (DEFT, arXiv 2402.01911).

    Its slope is 2 h eps / (h^2 + eps)^2, highest at |h| = sqrt(eps / 3): a small eps moves only what is almost 0.
    """
    square = h.square()
    return (square / (square + eps)).mean()


def chunk(p: Tensor, length: int) -> Tensor:
    """Mean over chunks and units of 1 - prod_t (1 - p_t): how likely a unit is on in a chunk (BlockFFN, 2507.08771).

    Args:
        p: [..., tokens, units], probabilities of being on, such as a router's scores over their sum.
        length: tokens of a chunk; what does not fill one counts as one.

    Raises:
        InputError: chunks of less than a token.
    """
    if length < 1:
        raise InputError(f"length: {length} is less than 1")
    off = torch.log1p(-p.clamp(max=1 - 1e-5))
    parts = [1 - part.sum(dim=-2).exp() for part in off.split(length, dim=-2)]
    return torch.stack(parts).mean()


def locality(scores: Tensor, alpha: float = 100.0, same_text: Tensor | None = None) -> Tensor:
    """Mean BCE(alpha a_{t-1}, sigmoid(alpha a_t)): neighbouring tokens shall choose the same (BlockFFN, 2507.08771).

    Args:
        scores: [batch, tokens, units], before the ReLU; the gradient flows into both of a pair.
        alpha: how sharp a choice is.
        same_text: [batch, tokens - 1], false where a pair crosses the end of a text.
    """
    loss = binary_cross_entropy_with_logits(
        alpha * scores[:, :-1], torch.sigmoid(alpha * scores[:, 1:]), reduction="none"
    )
    return loss.mean() if same_text is None else loss[same_text].mean()
