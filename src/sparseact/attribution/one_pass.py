"""One forward and one backward: outputs and exact gradients of all units, layers and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from sparseact.attribution.assumption import check_assumption
from sparseact.attribution.own_position import KeysValues, own_position_attention
from sparseact.errors import InputError
from sparseact.masked.decoding import Prefix, teacher_force
from sparseact.sites import Site, capture

IGNORED = -100
"""Label id of a padded step; it has no loss (as in torch's cross entropy)."""


@dataclass(frozen=True)
class Attribution:
    """What the scores are made of, by site.

    Attributes:
        x: units' outputs [batch, T, units, unit_size].
        gradient: d loss_t / d x_t, same shapes; loss_t is the cross entropy (nats) of target token t.
        logits: [batch, T, vocabulary], detached.
        keys_values: of all layers, for passes that keep the other positions dense.
    """

    x: dict[Site, Tensor]
    gradient: dict[Site, Tensor]
    logits: Tensor
    keys_values: KeysValues


@torch.inference_mode(mode=False)
def attribute_in_one_pass(
    model: PreTrainedModel,
    sites: Sequence[Site],
    prefix: Prefix,
    label: Tensor,
    *,
    target: Tensor | None = None,
) -> Attribution:
    """Differentiate every step's loss with respect to every unit of that step.

    Args:
        label: [batch, T] token ids that are read (teacher forcing).
        target: [batch, T] token ids whose loss is differentiated, `label` if None; `IGNORED`
            where a shorter label was padded.

    Raises:
        InputError: a gradient is not finite.
        UnsupportedModelError: the model's attention can't be exchanged, or it is not what the method assumes.

    Source: Song et al. 2024, section 3 (per-token gradient); the single pass is ours.
    """
    check_assumption(model, sites)
    # Tensors of inference mode cannot take part in what is differentiated.
    label, target = label.clone(), (label if target is None else target).clone()
    keys_values: KeysValues = {}
    with (
        torch.enable_grad(),
        own_position_attention(model, record=keys_values),
        capture(model, sites, gradient=True) as x,
    ):
        logits = teacher_force(model, prefix, label.clamp(min=0))
        loss = total_loss(logits, target)
        order = [x[site] for site in sites]
        gradient = dict(zip(sites, torch.autograd.grad(loss, order), strict=True))
    for site, value in gradient.items():
        if not torch.isfinite(value).all():
            raise InputError(f"the gradient at {site.module} is not finite, so its units can't be ranked")
    return Attribution({site: x[site].detach() for site in sites}, gradient, logits.detach(), keys_values)


def total_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sum over batch and steps of the cross entropy (nats) of `target` [batch, T]."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return cross_entropy(exact.flatten(0, 1), target.flatten(), reduction="sum", ignore_index=IGNORED)
