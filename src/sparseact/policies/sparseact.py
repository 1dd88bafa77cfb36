"""sparseact, the default: score = |x - median|, a threshold per linear input, budgets of equal loss per byte.

The paper's attribution (gradient x output) moved from run time to calibration: one backward pass over
labels that the model draws itself says what each site's dropped inputs cost, and every byte is saved
where it costs least. What is dropped is worth its median, which costs a bias and no weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sparseact.calibration.budgets import least_loss
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import Threshold
from sparseact.sites import Site, find_channels

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SparseAct(GatePolicy):
    """Threshold the inputs of all linears, each as far as the loss allows.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
        lm_head: gate the head of the model too; `sparsity` is then a share of the weights of blocks and head.
    """

    name = "sparseact"
    needs_gradient = True
    fill_needs_gradient = False
    lm_head: bool = False

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By |x|, less its median."""
        return [Gate(site, Threshold(0.0)) for site in find_channels(model, lm_head=self.lm_head)]

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """The medians."""
        return [replace(gate, shift=calibration.sample.x[gate.site].median(dim=0).values) for gate in gates]

    def budget(self, gates: Sequence[Gate], calibration: Calibration, target: float) -> dict[Site, float]:
        """Where a byte costs least."""
        return least_loss(gates, calibration.sample, target)
