"""LaRoSA: score = |x Q|, Q the principal directions of the linear's inputs, the highest of each token.

Liu et al. 2025, "La RoSA: Enhancing LLM Efficiency via Layerwise Rotated Sparse Activation",
arXiv 2507.01299.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sparseact.calibration.basis import folded_norms, pca_basis, shared_inputs
from sparseact.calibration.budgets import type_split
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import TopK
from sparseact.sites import Site, find_channels

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LaRoSA(GatePolicy):
    """Rotate what enters q, k, v and what enters gate, up; plain |x| for the others.

    The rotations are read for every token and paid for: the columns are that much sparser, so that
    `sparsity` is met net of them. By default each of both inputs is rotated beside its linears, two rotations a layer,
    which any model allows. The paper's own form is `absorbed`: one rotation Q a layer, of the residual stream, in which
    attention and MLP both read and write. The weights before and after absorb it, with the RMSNorms' weights (the input
    is then scored without them), the embedding and the head absorb the first and the last, and what is left is one
    adapter Q^T Q' on the residual path to the next layer. The released code rotates the MLP with the attention's basis,
    beside its linears, counts no rotation and saves .92 to .94 of what it says; its .8 and 1.2 are exact here.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token, rotations counted.
        absorbed: the paper's form, for blocks whose norms are all RMSNorms before linears; half the rotations' bytes.
    """

    absorbed: bool = False

    name = "larosa"

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By |x|, which is then rotated."""
        return [Gate(site, TopK(0.0)) for site in find_channels(model)]

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """The rotations, one for linears that read the same."""
        rotated = {gate.site: gate for gate in gates}
        groups = shared_inputs(calibration.model, list(rotated))
        x = calibration.sample.x
        if self.absorbed:
            norms = folded_norms(calibration.model, groups, calibration.windows[:1, :4])
            for attention, mlp, norm, norm_mlp in zip(groups[::2], groups[1::2], norms[::2], norms[1::2], strict=True):
                basis, shares = pca_basis(x[attention[0]] / norm), len(attention) + len(mlp)
                for site, weight in [*((site, norm) for site in attention), *((site, norm_mlp) for site in mlp)]:
                    rotated[site] = replace(rotated[site], basis=basis, basis_shares=shares, norm=weight)
            return list(rotated.values())
        for group in groups:
            basis = pca_basis(x[group[0]])
            for site in group:
                rotated[site] = replace(rotated[site], basis=basis, basis_shares=len(group))
        return list(rotated.values())

    def budget(self, gates: Sequence[Gate], calibration: Calibration, target: float) -> dict[Site, float]:
        """Less for what is rotated, more for the others."""
        return type_split(gates, calibration.sample, target)
