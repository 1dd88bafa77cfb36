"""The mean gradient along the path from 0 to a unit's output, which integrated gradients read.

One layer and kind is scaled at a time and only a token's own position, all other positions staying dense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparseact.attribution.one_pass import total_loss
from sparseact.attribution.own_position import KeysValues, own_position_attention
from sparseact.masked.decoding import Prefix, teacher_force
from sparseact.sites import Site, capture, on_units

LOGITS_AT_ONCE = 2**25
"""Logits held by one pass; more path steps than fit are run in turn."""


@torch.inference_mode(mode=False)
def path_gradients(
    model: PreTrainedModel,
    sites: Sequence[Site],
    prefix: Prefix,
    label: Tensor,
    keys_values: KeysValues,
    *,
    steps: int,
    target: Tensor | None = None,
    after_site: Callable[[], None] = lambda: None,
) -> dict[Site, Tensor]:
    """Mean gradient over the right Riemann sum k/steps, k = 1..steps, by site.

    Args:
        label, target: as in `attribute_in_one_pass`; one prompt, [1, T].
        keys_values: the dense pass's, from `Attribution`.
        after_site: called when a site is done, for progress.

    Returns:
        [1, T, units, unit_size] per site. Costs one forward and at most one backward of `steps`
        times the tokens for each site.
    """
    label, target = label.clone(), (label if target is None else target).clone()
    at_once = max(1, LOGITS_AT_ONCE // (label.shape[1] * model.config.get_text_config().vocab_size))
    alphas = torch.arange(1, steps + 1, device=label.device) / steps
    gradients = {}
    for site in sites:
        total = torch.zeros(())
        for alpha in alphas.split(at_once):
            total = total + _gradient_at(model, site, prefix, label, target, keys_values, alpha)
        gradients[site] = total / steps
        after_site()
    return gradients


def _gradient_at(
    model: PreTrainedModel,
    site: Site,
    prefix: Prefix,
    label: Tensor,
    target: Tensor,
    keys_values: KeysValues,
    alpha: Tensor,
) -> Tensor:
    """Sum over `alpha` [n] of the gradients at alpha times the site's outputs."""

    def scale(_: Site, x: Tensor) -> Tensor:
        return x * alpha.to(x.dtype)[:, None, None, None]

    times = len(alpha)
    with (
        torch.enable_grad(),
        own_position_attention(model, others=keys_values),
        on_units(model, [site], scale),
        capture(model, [site], gradient=True) as x,  # its hook runs after `scale`'s
    ):
        logits = teacher_force(model, prefix, label.repeat(times, 1).clamp(min=0))
        loss = total_loss(logits, target.repeat(times, 1))
        (gradient,) = torch.autograd.grad(loss, [x[site]])
    return gradient.sum(dim=0, keepdim=True)
