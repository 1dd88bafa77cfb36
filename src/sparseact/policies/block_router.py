"""Block router: score = sigmoid(R x + b), by block of neurons; whole blocks are on, by one threshold per layer.

The neurons of an MLP are put into blocks by how they co-activate (MoEfication, Zhang et al. 2022, arXiv 2110.01786;
LTE, Zheng et al. 2024, arXiv 2402.06126), and by ridge regression

    R x + b  guesses  log sum_i (|h_i| ||W_down,i||)^2  over the neurons i of each block

less its mean. A block that is on is a run of rows of gate and up and of columns of down, a stream where the weights lie
in that order; R is about a hundredth of the MLP. What is off is worth its mean where off, whose share of the output is
a bias (SPON's constants). Untrained it loses much: it is a start for `sparseact train`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from sparseact.calibration.blocks import balanced_blocks
from sparseact.calibration.fit import mean_where_off
from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.policy import Calibration, GatePolicy
from sparseact.calibration.regression import reduced_rank_regression
from sparseact.calibration.weights import column_norms
from sparseact.errors import InputError
from sparseact.masked.gate import route
from sparseact.recipes.gate import Gate, Signal
from sparseact.recipes.selectors import Threshold
from sparseact.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class BlockRouter(GatePolicy):
    """Keep the blocks of neurons of every MLP that a router ranks highest.

    Attributes:
        sparsity: share of the neurons, whose rows of gate and up and columns of down are not read for a token.
        block: neurons of a block. The router has a row for each, whose bytes are read for every token.
        constants: a neuron that is off is worth its mean where off; if false, 0.
    """

    name = "block-router"
    block: int = 32
    constants: bool = True

    def gates(self, model: PreTrainedModel) -> list[Gate]:
        """By a router's score, which the sigmoid makes positive."""
        parts = find_neurons(model)
        for part in parts:
            if not 0 < self.block < part.site.units:
                raise InputError(f"block: {self.block} is not between 1 and {part.site.units - 1}, of {part.site.name}")
        return [
            Gate(part.site, Threshold(0.0), Signal("routed", part.inputs.module, activation="sigmoid"))
            for part in parts
        ]

    def reads(self, model: PreTrainedModel) -> list[Site]:
        """What gate and up read."""
        return [part.inputs for part in find_neurons(model)]

    def fill(self, gates: list[Gate], calibration: Calibration) -> list[Gate]:
        """The blocks, the routers and the constants."""
        parts = zip(gates, self.reads(calibration.model), strict=True)
        return [self._fit(gate, inputs, calibration) for gate, inputs in parts]

    def _fit(self, gate: Gate, inputs: Site, calibration: Calibration) -> Gate:
        x, h = calibration.sample.x[inputs], calibration.sample.x[gate.site]
        activity = h.abs() * column_norms(calibration.model, gate.site)
        blocks = balanced_blocks(activity, self.block)
        energy = torch.zeros(len(x), int(blocks.max()) + 1).index_add_(1, blocks, activity.square())
        target = energy.clamp(min=1e-12).log()
        rank = min(target.shape[1], inputs.units)
        A, B, bias = reduced_rank_regression(x, target - target.mean(), rank)
        gate = replace(gate, router=(B @ A, bias), blocks=blocks)
        if not self.constants:
            return gate
        return replace(gate, shift=mean_where_off(gate, h, gate.score(route(gate, x)), self.sparsity))
