"""N:M: score = |x| * ||W_column||, the n highest of every m neighbouring inputs.

Amber Pruner, arXiv 2508.02128, and flexible N:M, arXiv 2509.22166, which has 8:16 as the best trade-off
between quality and what hardware can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.calibration.weights import column_norms
from sparseact.errors import InputError
from sparseact.recipes import selectors
from sparseact.recipes.gate import Gate
from sparseact.sites import Site, find_channels

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class NOfM(GatePolicy):
    """Keep n of every m inputs of all linears.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token. A linear can only
            have a multiple of 1 / m: for what lies between, they take turns.
        m: inputs of a group; must divide the inputs of every linear.
        lm_head: gate the head of the model too; `sparsity` is then a share of the weights of blocks and head.
    """

    name = "n-of-m"
    m: int = 16
    lm_head: bool = False

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By |x| and the norms of the columns; the text only says what is achieved."""
        sites = find_channels(model, lm_head=self.lm_head)
        for site in sites:
            if site.units % self.m:
                raise InputError(f"m: {site.name} has {site.units} inputs, which are not a multiple of {self.m}")
        return [Gate(site, selectors.NOfM(self.m, self.m), scale=column_norms(model, site)) for site in sites]

    def budget(self, gates: Sequence[Gate], calibration: Calibration, target: float) -> dict[Site, float]:
        """Multiples of 1 / m."""
        return multiples(gates, target, self.m)


def multiples(gates: Sequence[Gate], target: float, m: int) -> dict[Site, float]:
    """Multiples of 1 / m around the target: what one site is short of, the next ones make up for."""
    levels: dict[Site, float] = {}
    short = 0.0
    for site in (gate.site for gate in gates):
        size = site.units * site.unit_bytes
        short += target * size
        levels[site] = min(max(round(short / size * m), 0), m) / m
        short -= levels[site] * size
    return levels
