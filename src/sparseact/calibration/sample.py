"""A calibration sample: what enters every linear, for some tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparseact.errors import NotFiniteError
from sparseact.masked.decoding import evaluation_mode
from sparseact.sites import Site, capture, skip_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SINK_POSITIONS = 8
"""Positions at the start of a window that a sample leaves out: attention sinks, whose activations and
gradients are orders of magnitude larger than the rest's and would drown them."""

WINDOWS_AT_ONCE = 2

VALUES_AT_MOST = 2**28
"""Values of a sample; of a larger model every n-th token is kept."""


@dataclass(frozen=True)
class Sample:
    """Inputs of linears for calibration tokens.

    Attributes:
        x: [tokens, units] by site, float32 on the CPU.
        gradient: of a loss with a label drawn from the model's own distribution (nats per token), same
            shapes; empty unless asked for. Its mean square is the diagonal of the Fisher information.
    """

    x: dict[Site, Tensor]
    gradient: dict[Site, Tensor]


@torch.inference_mode(mode=False)
def take_sample(
    model: PreTrainedModel,
    sites: Sequence[Site],
    windows: Tensor,
    *,
    gradient: bool = False,
    seed: int = 0,
) -> Sample:
    """Run windows [n, tokens] through the model and keep what enters the sites' linears.

    Args:
        gradient: differentiate too; one forward and one backward.
        seed: of the labels that are drawn.

    Raises:
        NotFiniteError: one of them is no number.
    """
    x: dict[Site, list[Tensor]] = {site: [] for site in sites}
    gradients: dict[Site, list[Tensor]] = {site: [] for site in sites}
    generator = torch.Generator().manual_seed(seed)
    stride = -(-windows.numel() * sum(site.units for site in sites) // VALUES_AT_MOST)
    with torch.set_grad_enabled(gradient), evaluation_mode(model):
        for window in windows.to(model.device).clone().split(WINDOWS_AT_ONCE):
            with capture(model, sites, gradient=gradient) as seen, nullcontext() if gradient else skip_logits(model):
                logits = model(window, use_cache=False).logits
                if gradient:
                    order = [seen[site] for site in sites]
                    found = torch.autograd.grad(_own_loss(logits, generator), order)
                    for site, value in zip(sites, found, strict=True):
                        gradients[site].append(_flat(value, stride))
            for site in sites:
                x[site].append(_flat(seen[site], stride))
                for values in (*x[site][-1:], *gradients[site][-1:]):
                    if not bool(values.isfinite().all()):
                        raise NotFiniteError(f"the inputs of {site.module}, or their gradients,")
    return Sample(_joined(x), _joined(gradients))


def _joined(parts: dict[Site, list[Tensor]]) -> dict[Site, Tensor]:
    """Concatenate site by site, giving the parts free on the way: together they are as large as the result."""
    return {site: torch.cat(found) for site in list(parts) if (found := parts.pop(site))}


def _flat(x: Tensor, stride: int) -> Tensor:
    """[batch, tokens, units, 1] to [batch * tokens, units], without the sinks and the last position."""
    return x.detach()[:, SINK_POSITIONS:-1:stride].flatten(-2).flatten(0, 1).float().cpu()


def _own_loss(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Cross entropy of labels drawn from the model's own distribution, summed over positions."""
    logits = logits.float()
    with torch.no_grad():
        noise = torch.rand(logits.shape, generator=generator).to(logits.device).clamp(min=1e-20)
        label = (logits - torch.log(-torch.log(noise))).argmax(dim=-1)  # Gumbel: a draw from the softmax
    return cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="sum")
