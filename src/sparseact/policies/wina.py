"""WINA: score = |x| * ||W_column||, the highest of each token.

Chen et al. 2025, "WINA: Weight Informed Neuron Activation", arXiv 2505.19427, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparseact.calibration.basis import shared_inputs, svd_basis
from sparseact.calibration.policy import GatePolicy
from sparseact.calibration.weights import weight_of
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import TopK
from sparseact.sites import Site, find_channels

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

RELEASED = ("k_proj", "gate_proj", "qkv_proj", "gate_up_proj")
"""Linears whose inputs the released code weighs; for the others it takes |x|."""


@dataclass(frozen=True)
class WINA(GatePolicy):
    """Keep the inputs with the highest |x_j| * ||W_:j||_2 of each token, in every linear.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
        as_released: weigh only the inputs that the released code weighs.
        rotate: turn what enters q, k, v to the right singular vectors of k, and what enters gate, up to
            those of gate (section 3.4), one rotation each that is read for every token and paid for. The
            released code folds it into the neighbouring weights, which is not exact for tied embeddings.
        lm_head: gate the head of the model too; `sparsity` is then a share of the weights of blocks and head.
    """

    name = "wina"
    as_released: bool = False
    rotate: bool = False
    lm_head: bool = False

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By |x| and the norms of the columns; the text only says what is achieved."""
        sites = find_channels(model, lm_head=self.lm_head)
        rotations: dict[Site, tuple[Tensor, int]] = {}
        for group in shared_inputs(model, sites) if self.rotate else []:
            rotations |= dict.fromkeys(group, (_basis(model, group), len(group)))

        def gate(site: Site) -> Gate:
            basis, shares = rotations.get(site, (None, 1))
            weight = weight_of(model, site)
            weighs = not self.as_released or site.module.endswith(RELEASED)
            norms = (weight if basis is None else weight @ basis).norm(dim=0)
            return Gate(site, TopK(0.0), scale=norms if weighs else None, basis=basis, basis_shares=shares)

        return [gate(site) for site in sites]


def _basis(model: PreTrainedModel, group: Sequence[Site]) -> Tensor:
    """The basis in which the columns of k, or of gate, are orthogonal."""
    chosen = next((site for site in group if site.module.endswith(RELEASED)), group[0])
    return svd_basis(weight_of(model, chosen))
