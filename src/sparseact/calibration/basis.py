"""Orthonormal bases for the inputs of linears, and which linears read the same input.

A rotated linear stores W @ basis and reads x @ basis, so y = (W @ basis) (x @ basis) exactly, for any
norm before it and tied embeddings too. Linears that read the same input share one basis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseact.sites import Site, dissect

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DAMPING = 0.01
"""Share of the mean variance added to every direction, as in LaRoSA's code."""


def shared_inputs(model: PreTrainedModel, sites: Sequence[Site]) -> list[list[Site]]:
    """The channels that read the residual stream, those of one input together: q, k, v; gate, up."""
    by_module = {site.module: site for site in sites}
    return [
        [by_module[f"{block.path}.{name}"] for name in names]
        for block in dissect(model)[0]
        for names in (block.layout.attention_in, block.layout.mlp_in)
        if names
    ]


def pca_basis(x: Tensor) -> Tensor:
    """Principal directions [units, units] of x [tokens, units], around 0, the widest first."""
    x = x.double()
    gram = x.T @ x
    gram.diagonal().add_(DAMPING * gram.diagonal().mean())
    return torch.linalg.eigh(gram).eigenvectors.flip(-1).float().contiguous()


def svd_basis(weight: Tensor) -> Tensor:
    """Right singular vectors [inputs, inputs] of a weight [outputs, inputs], the largest first.

    With fewer outputs than inputs the last directions span what the weight does not read; which of
    them is first means nothing.
    """
    return torch.linalg.svd(weight.double()).Vh.T.float().contiguous()
