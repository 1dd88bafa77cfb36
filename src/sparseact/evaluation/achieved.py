"""Achieved sparsity: the share of weight bytes that a mask leaves unread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from sparseact.sites import Site


def achieved_sparsity(off: Mapping[Site, Tensor]) -> Tensor:
    """Share of the sites' weight bytes that need not be read.

    Args:
        off: share of each site's units that are off, any shape; the same shape for all sites.
    """
    total = sum(site.units * site.unit_bytes for site in off)
    return torch.stack([share * (site.units * site.unit_bytes / total) for site, share in off.items()]).sum(0)


def published_sparsity(off: Mapping[Site, Tensor]) -> Tensor:
    """The released code's accounting: heads count 1/3, neurons 2/3, whatever the model.

    Right for Phi-2 (4 d^2 attention, 8 d^2 MLP weights), wrong for grouped-query attention and
    gated MLPs (Song et al. 2024, released code).
    """
    weights = {"mlp": 2 / 3, "heads": 1 / 3}
    layers = Counter(site.kind for site in off)
    total = sum(weights[kind] for kind in layers)
    shares = [share * (weights[site.kind] / total / layers[site.kind]) for site, share in off.items()]
    return torch.stack(shares).sum(0)
