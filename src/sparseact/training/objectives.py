"""Losses over a model's logits: L = KL(dense || sparse), the text's own cross entropy, or half of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from sparseact.errors import unknown_name

IGNORED = -100
"""The label of a token that does not count, as transformers has it."""


def distil(logits: Tensor, dense: Tensor, counted: Tensor | None = None) -> Tensor:
    """KL(dense || sparse) = sum_v p_v (log p_v - log q_v), nats, mean over tokens (Hinton et al., arXiv 1503.02531).

    Args:
        logits: [batch, tokens, vocabulary] of the model that learns.
        dense: of its teacher, the same shape.
        counted: [batch, tokens], which tokens count; all if None.
    """
    p, q = log_softmax(dense.float(), dim=-1), log_softmax(logits.float(), dim=-1)
    kl = (p.exp() * (p - q)).sum(dim=-1)
    return kl.mean() if counted is None else kl[counted].mean()


def language_model(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each next token, nats, mean over those whose label is not -100.

    Args:
        logits: [batch, tokens, vocabulary].
        labels: [batch, tokens], the tokens themselves.
    """
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)


@dataclass(frozen=True)
class Loss:
    """A loss that transformers' Trainer takes: `Trainer(..., compute_loss_func=Loss("distil", teacher))`.

    Attributes:
        objective: distil, lm or both.
        teacher: gives the dense model's logits [batch, tokens, vocabulary] of tokens [batch, tokens]; not used by lm.
    """

    objective: str
    teacher: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        """Refuse an objective that is none."""
        if self.objective not in ("distil", "lm", "both"):
            raise unknown_name("objective", self.objective, ("distil", "lm", "both"))

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """The loss of a model's outputs; labels that are -100 do not count."""
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        parts = []
        if self.objective in ("distil", "both"):
            with torch.no_grad():
                dense = self.teacher(labels.clamp(min=0))
            parts.append(distil(logits, dense, labels != IGNORED))
        if self.objective in ("lm", "both"):
            parts.append(language_model(logits, labels))
        return torch.stack(parts).mean()
