"""Integrated gradients: s = -mean(x * mean_k g(k/n x)), the path from 0 to the unit's output.

One layer and kind is scaled at a time and only a token's own position, all other positions staying
dense; so the sum over a layer's units telescopes to the loss that switching them all off adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from sparseact.attribution.base import Gradient
from sparseact.attribution.one_pass import total_loss
from sparseact.attribution.own_position import KeysValues, own_position_attention
from sparseact.masked.decoding import Prefix, teacher_force
from sparseact.sites import Site, capture, on_units

LOGITS_AT_ONCE = 2**25
"""Logits held by one pass; more path steps than fit are run in turn."""


@dataclass(frozen=True)
class IntegratedGradients:
    """s = -mean_d(x g_path), g_path the mean gradient along the path (Sundararajan et al. 2017, eq. 3).

    The gradients come from `path_gradients`; Song et al. 2024 use 20 steps.
    """

    name: ClassVar[str] = "ig"
    reads: ClassVar[Gradient] = "path"

    def score(
        self, x: Float[Tensor, "*batch units size"], gradient: Float[Tensor, "*batch units size"]
    ) -> Float[Tensor, "*batch units"]:
        """Score [..., units] of outputs and mean path gradients [..., units, size]."""
        return -(gradient * x).mean(dim=-1)


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
    target = label if target is None else target
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
