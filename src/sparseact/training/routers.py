"""Routers: from a token's hidden state to which blocks are on, and with what weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sparseact.training.controller import Controller, additive_bias
from sparseact.training.masks import budget_mask


@dataclass(frozen=True)
class Routing:
    """What a router decided.

    Attributes:
        scores: [..., blocks], before the choice; for penalties.
        on: [..., blocks] bool.
        weights: [..., blocks], 0 where off; what a block's output is multiplied by.
    """

    scores: Tensor
    on: Tensor
    weights: Tensor


class Router(Protocol):
    """Chooses blocks for each token."""

    def __call__(self, x: Tensor) -> Routing:
        """x: [..., hidden]."""
        ...


class TopKRouter(nn.Module):
    """on = top-k(x R + b), weight = s / stopgrad(s) = 1: a block that is on is as it was, and its score has a gradient.

    A hard choice forward, always: a gate that is soft in training reads well and breaks when it is cut.
    """

    def __init__(self, hidden: int, blocks: int, k: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, blocks)
        self.k = k

    def forward(self, x: Tensor) -> Routing:
        """The k blocks with the highest scores."""
        scores = self.linear(x)
        on = budget_mask(scores.detach(), self.k)
        return Routing(scores, on, torch.where(on, 1 + scores - scores.detach(), 0))


class ReLUNormRouter(nn.Module):
    """on = ReLU(x R) > 0, weight = RMSNorm(ReLU(x R)) g (BlockFFN, arXiv 2507.08771): as many as it likes, no top-k."""

    def __init__(self, hidden: int, blocks: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, blocks, bias=False)
        self.gain = nn.Parameter(torch.ones(blocks))
        self.eps = eps

    def forward(self, x: Tensor) -> Routing:
        """What is on is asked of the ReLU, not of the weight, whose sign the gain may turn."""
        scores = self.linear(x)
        kept = scores.relu()
        norm = kept * (kept.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()
        return Routing(scores, kept > 0, norm * self.gain)


class SigmoidBiasRouter(nn.Module):
    """on = top-k(sigmoid(x R) + b), weight = s / sum of those on; b balances, no gradient (Ling 2.0, 2510.22115)."""

    def __init__(self, hidden: int, blocks: int, k: int, step: float = 1e-3) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, blocks, bias=False)
        self.k = k
        self.controller = Controller(torch.zeros(blocks), torch.full((blocks,), k / blocks), additive_bias(step))

    def forward(self, x: Tensor) -> Routing:
        """The bias chooses and does not weigh."""
        scores = self.linear(x).sigmoid()
        on = budget_mask(scores.detach() + self.controller.value.to(scores.device), self.k)
        kept = torch.where(on, scores, 0)
        return Routing(scores, on, kept / kept.sum(dim=-1, keepdim=True))

    def balance(self, on: Tensor) -> None:
        """Move the bias against the load of the blocks in a batch [..., blocks]."""
        self.controller.update(on.flatten(0, -2).float().mean(dim=0).cpu())
