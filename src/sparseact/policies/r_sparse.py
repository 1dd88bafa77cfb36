"""R-Sparse: score = |x| * ||W_column||, a threshold per linear input, and a low-rank guess of the rest.

Zhang et al. 2025, "R-Sparse: Rank-Aware Activation Sparsity", arXiv 2504.19449, with the mask m and
the leading singular vectors of W:

    y = W (x * m) + U_r S_r V_r^T (x * (1 - m))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.calibration.weights import weight_of
from sparseact.errors import InputError
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import Threshold
from sparseact.sites import Site, find_channels

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class RSparse(GatePolicy):
    """Read of every linear the share alpha of its budget as columns and the rest as low-rank factors.

    The paper searches an alpha for every linear; its recipe for Llama-3-8B has .96 on average. Unlike in the
    released code, the rank follows from the linear's own number of outputs (under GQA, k and v got more
    than their budget).

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token, factors counted.
        alpha: share of what is read that is columns; 1 is TEAL, as in the released code.
    """

    name = "r-sparse"
    alpha: float = 0.95

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By |x| and the norms of the columns, with factors of the weights."""
        if not 0 <= self.alpha <= 1:
            raise InputError(f"r-sparse: alpha {self.alpha} is not between 0 and 1")
        sites = find_channels(model)
        if self.alpha == 1:
            return [Gate(site, Threshold(0.0)) for site in sites]
        return [self._gate(site, weight_of(model, site)) for site in sites]

    def _gate(self, site: Site, weight: Tensor) -> Gate:
        factors = low_rank(weight, rank_of(weight.shape, self.sparsity, self.alpha)) if self.sparsity else None
        return Gate(site, Threshold(0.0), scale=weight.norm(dim=0), low_rank=factors)

    def budget(self, gates: Sequence[Gate], calibration: Calibration, target: float) -> dict[Site, float]:
        """Every linear keeps to the sparsity on its own."""
        return columns(gates, self.sparsity, calibration.model.dtype.itemsize)


def columns(gates: Sequence[Gate], sparsity: float, element_size: int) -> dict[Site, float]:
    """Sparsity of the columns: every linear keeps to the budget on its own, its factors counted."""
    sizes = {gate.site: gate.site.units * gate.site.unit_bytes for gate in gates}
    return {gate.site: min(1.0, sparsity + gate.extra_bytes(element_size) / sizes[gate.site]) for gate in gates}


def rank_of(shape: Sequence[int], sparsity: float, alpha: float) -> int:
    """The rank whose factors weigh the share 1 - alpha of what is read of a weight [outputs, inputs]."""
    outputs, inputs = shape
    return int(outputs * inputs * (1 - sparsity) * (1 - alpha)) // (inputs + outputs)


def low_rank(weight: Tensor, rank: int) -> tuple[Tensor, Tensor] | None:
    """The best rank-`rank` factors ([outputs, rank], [rank, inputs]) of a weight; None for rank 0."""
    if rank == 0:
        return None
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    factors = left[:, :rank] * values[:rank], right[:rank]
    # Laid out as they are when read from a file, so that a product rounds the same there.
    first, second = (factor.clone(memory_format=torch.contiguous_format) for factor in factors)
    return first, second
