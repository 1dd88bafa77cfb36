"""CETT: score = |h_i| * ||W_down,i||, a threshold per layer such that every layer loses the same share.

Luo et al. 2024, "Sparsing Law: Towards Large Language Models with Greater Activation Sparsity",
arXiv 2411.02335: the cumulative error of tail truncation of a set D that is dropped is the mean over tokens of

    ||W_down (h 1_D)|| / ||W_down h||

One value of it for all layers; here the value follows from the sparsity. The paper's PPL-p% is `max_sparsity` of this
policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.calibration.weights import column_norms, weight_of
from sparseact.masked.selectors import quantile
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import Threshold
from sparseact.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEVELS = torch.linspace(0, 1, 41, dtype=torch.float64)
"""Levels at which a layer's CETT is measured; between them it is interpolated."""

TOKENS = 128
"""Tokens of the sample that it is measured on."""


@dataclass(frozen=True)
class CETT(GatePolicy):
    """Threshold the neurons themselves, each weighed by its column of down.

    They must be computed first, so only columns of down are saved: a ruler rather than a way to be fast. The recipe's
    meta has the CETT that gives the sparsity on the text, as `cett`.

    Attributes:
        sparsity: share of the columns of down that is not read for a token.
    """

    name = "cett"

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By the neurons and the norms of the columns of down."""
        sites = [part.skipping("down") for part in find_neurons(model)]
        return [Gate(site, Threshold(0.0), scale=column_norms(model, site)) for site in sites]

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """At sparsity 0 nothing is lost."""
        calibration.notes["cett"] = 0.0
        return gates

    def budget(self, gates: Sequence[Gate], calibration: Calibration, target: float) -> dict[Site, float]:
        """At the one CETT that gives the target."""
        curves = [
            cett_curve(weight_of(calibration.model, gate.site), h, gate.score(h))
            for gate in gates
            for h in [calibration.sample.x[gate.site]]
        ]
        sizes = torch.tensor([gate.site.units * gate.site.unit_bytes for gate in gates], dtype=torch.float64)
        levels, calibration.notes["cett"] = equal_cett(torch.stack(curves), sizes, target)
        return {gate.site: level for gate, level in zip(gates, levels.tolist(), strict=True)}


def cett(weight: Tensor, h: Tensor, off: Tensor) -> float:
    """Share of a layer's output that is lost without the neurons that are off, mean over tokens.

    Args:
        weight: of down [outputs, units].
        h: neurons [tokens, units].
        off: which of them are dropped, bool.
    """
    lost = ((h * off) @ weight.mT).norm(dim=-1)
    return float((lost / (h @ weight.mT).norm(dim=-1).clamp(min=1e-12)).mean())


def cett_curve(weight: Tensor, h: Tensor, scores: Tensor) -> Tensor:
    """CETT [levels] when the lowest share `LEVELS` of the scores [tokens, units] is dropped, made monotone."""
    stride = max(1, len(h) // TOKENS)
    h, scores = h[::stride], scores[::stride]
    found = [cett(weight, h, scores <= quantile(scores, level)) for level in LEVELS[1:].tolist()]
    return torch.tensor([0.0, *found], dtype=torch.float64).cummax(dim=0).values


def equal_cett(curves: Tensor, sizes: Tensor, target: float) -> tuple[Tensor, float]:
    """Sparsity [sites] at one common CETT, such that the sites' bytes average to the target exactly.

    Args:
        curves: [sites, levels], float64.
        sizes: bytes of each site [sites], float64.
        target: share of all bytes.

    Returns:
        The sparsities and the CETT.
    """

    def at(value: float) -> Tensor:
        return torch.stack([_level(curve, value) for curve in curves])

    def share(levels: Tensor) -> float:
        return float((levels * sizes).sum() / sizes.sum())

    low, high = -1e-12, float(curves.max())  # below 0 nothing is dropped, not even zeros
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(at(middle)) < target else (low, middle)
    below, above = at(low), at(high)
    weight = (target - share(below)) / max(share(above) - share(below), 1e-12)
    return below + (above - below) * min(max(weight, 0.0), 1.0), max(high, 0.0)


def _level(curve: Tensor, value: float) -> Tensor:
    """The highest level whose CETT is at most a value, between `LEVELS` by interpolation."""
    place = int(torch.searchsorted(curve, value, right=True))
    if place in {0, len(curve)}:
        return LEVELS[max(place - 1, 0)]
    step = (value - curve[place - 1]) / (curve[place] - curve[place - 1])
    return LEVELS[place - 1] + step * (LEVELS[place] - LEVELS[place - 1])
