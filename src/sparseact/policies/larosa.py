"""LaRoSA: score = |x Q|, Q the principal directions of the linear's inputs, the highest of each token.

Liu et al. 2025, "La RoSA: Enhancing LLM Efficiency via Layerwise Rotated Sparse Activation",
arXiv 2507.01299.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from sparseact.calibration.basis import pca_basis, shared_inputs
from sparseact.calibration.budgets import type_split
from sparseact.calibration.fit import calibrate_gates
from sparseact.calibration.sample import Sample
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import TopK
from sparseact.sites import Site, find_channels

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LaRoSA:
    """Rotate what enters q, k, v and what enters gate, up; plain |x| for the others.

    The rotations are read for every token and paid for: the columns are that much sparser, so that
    `sparsity` is met net of them. The released code rotates the MLP with the attention's basis, counts
    no rotation and saves .92 to .94 of what it says; its .8 and 1.2 are exact here.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token, rotations counted.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "larosa"
    sparsity: float
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """Principal directions of the inputs on the text."""
        sites = find_channels(model)
        groups = {site: group for group in shared_inputs(model, sites) for site in group}
        bases: dict[Site, Tensor] = {}

        def gate(site: Site, sample: Sample) -> Gate:
            if site not in groups:
                return Gate(site, TopK(0.0))
            first = groups[site][0]
            if first not in bases:
                bases[first] = pca_basis(sample.x[first])
            return Gate(site, TopK(0.0), basis=bases[first], basis_shares=len(groups[site]))

        return calibrate_gates(self, model, tokenizer, text, sites, gate, type_split)
