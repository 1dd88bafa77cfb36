"""LaRoSA: score = |x Q|, Q the principal directions of the linear's inputs, the highest of each token.

Liu et al. 2025, "La RoSA: Enhancing LLM Efficiency via Layerwise Rotated Sparse Activation",
arXiv 2507.01299.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sparseact.calibration.basis import pca_basis, shared_inputs
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
    `sparsity` is met net of them. The released code rotates the MLP with the attention's basis, counts
    no rotation and saves .92 to .94 of what it says; its .8 and 1.2 are exact here.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token, rotations counted.
    """

    name = "larosa"

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By |x|, which is then rotated."""
        return [Gate(site, TopK(0.0)) for site in find_channels(model)]

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """The rotations, one for linears that read the same."""
        rotated = {gate.site: gate for gate in gates}
        for group in shared_inputs(calibration.model, list(rotated)):
            basis = pca_basis(calibration.sample.x[group[0]])
            for site in group:
                rotated[site] = replace(rotated[site], basis=basis, basis_shares=len(group))
        return list(rotated.values())

    def budget(self, gates: Sequence[Gate], calibration: Calibration, target: float) -> dict[Site, float]:
        """Less for what is rotated, more for the others."""
        return type_split(gates, calibration.sample, target)
