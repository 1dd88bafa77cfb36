"""GRIFFIN: score = || [ |h_ti| / ||h_t|| ]_t ||, over the prompt's tokens t; the highest neurons i continue it.

Dong et al. 2024, "Prompt-prompted Adaptive Structured Pruning for Efficient LLM Generation",
arXiv 2404.01365 (`masked.apply.prompt_scores`). The paper leaves attention dense. With `heads` the same is asked of its
heads: || [ ||z_ti|| / ||z_t|| ]_t ||, where z_ti is what head i puts out and z_t what all of them do; Deja Vu (Liu et
al. 2023, arXiv 2310.17157) takes heads by the norm of their output too. Every text of a batch has its own neurons and
heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sparseact.calibration.budgets import whole_heads
from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.errors import InputError
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.selectors import TopK
from sparseact.sites import Site, find_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Griffin(GatePolicy):
    """Keep, while decoding, the neurons of every MLP that the prompt used most. The prompt runs dense.

    Attributes:
        sparsity: share of the neurons, whose rows of gate and up and columns of down are not read while
            decoding; with heads, of the weights of both.
        heads: choose heads from the prompt too: this times `sparsity` of them, to the nearest head, and as many more
            neurons. Of a head that is off the rows of q and the columns of o are not read; its keys and values are,
            because a later prompt may choose it, and other heads may share them.
        phases: which tokens stay dense; several tokens at once always do.
    """

    name = "griffin"
    heads: float = 0.0
    phases: Phases = field(default_factory=lambda: Phases(prefill=False), kw_only=True)

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By the prompt, which is the calibration: nothing is fitted to the text."""
        if not 0 <= self.heads <= 1:
            raise InputError(f"heads: {self.heads} is not between 0 and 1")
        sites = [part.site for part in find_neurons(model)] + (find_sites(model, "heads") if self.heads else [])
        return [Gate(site, TopK(0.0), frozen=True) for site in sites]

    def budget(self, gates: Sequence[Gate], calibration: Calibration, target: float) -> dict[Site, float]:
        """Heads in whole heads."""
        if not self.heads:
            return super().budget(gates, calibration, target)
        return whole_heads(gates, calibration.sample, target, heads=self.heads)
