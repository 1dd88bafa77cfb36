"""How far a sparse model's next-token distributions are from the dense model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

if TYPE_CHECKING:
    from jaxtyping import Float, Int

ROWS_AT_ONCE = 2**24
"""Log-probabilities held at once while comparing."""


@dataclass(frozen=True)
class Quality:
    """Means over the steps of one text, one entry per run: [batch].

    Attributes:
        agreement: share of steps whose most likely token is the dense model's.
        nll: negative log-likelihood of the label, nats per token.
        kl: KL divergence from the dense to the sparse distribution, nats per token.
        runner_up: share of steps whose most likely token is the dense model's second.
    """

    agreement: Tensor
    nll: Tensor
    kl: Tensor
    runner_up: Tensor


def compare(
    logits: Float[Tensor, "batch steps vocabulary"],
    dense: Float[Tensor, "steps vocabulary"],
    label: Int[Tensor, " steps"],
    runner_up: Int[Tensor, " steps"],
) -> Quality:
    """Compare runs over the same steps with the dense one.

    Args:
        logits: of the sparse runs.
        dense: logits of the dense run.
        label: the dense model's tokens.
        runner_up: its second choices.
    """
    dense_log = log_softmax(dense.float(), dim=-1)
    probability = dense_log.exp()
    at_once = max(1, ROWS_AT_ONCE // dense.numel())
    rows = []
    for part in logits.split(at_once):
        log = log_softmax(part.float(), dim=-1)
        choice = part.argmax(dim=-1)
        rows.append(
            torch.stack(
                [
                    (choice == label).float().mean(dim=-1),
                    -log.gather(-1, label.expand(len(part), -1)[..., None]).mean(dim=(-1, -2)),
                    (probability * (dense_log - log)).sum(dim=-1).mean(dim=-1),
                    (choice == runner_up).float().mean(dim=-1),
                ]
            )
        )
    return Quality(*torch.cat(rows, dim=-1))


def second_choices(dense: Float[Tensor, "steps vocabulary"], label: Int[Tensor, " steps"]) -> Int[Tensor, " steps"]:
    """The most likely token of each step other than the label."""
    return dense.scatter(-1, label[:, None], -torch.inf).argmax(dim=-1)
