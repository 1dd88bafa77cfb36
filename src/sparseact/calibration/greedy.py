"""TEAL's greedy budget: within each block, byte after byte goes where the block's output changes least.

Liu et al. 2024, arXiv 2408.14690, algorithm 1. The cost of a linear is its true bytes (the released code
has a table: k and v are 1/4 of q in Llama-3-8B and 1/8 in all others, Llama-2-7B among them, whose k is as large as
q), no linear goes beyond all of its inputs, and a block for which the same sparsity everywhere turns out better
gets that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparseact.calibration.sample import SINK_POSITIONS, Sample
from sparseact.masked.decoding import evaluation_mode
from sparseact.masked.gate import keep, on_device, rotate
from sparseact.masked.selectors import fit, mask
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import Selector
from sparseact.sites import Site, on_units

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEP = 0.01
"""Share of a block's bytes that one step gives away. A block is run (target / STEP) * linears times."""

TOKENS = 256
"""Tokens of the calibration text on which a block is run."""

FIT_VALUES = 2**16
"""Scores that a trial's selector is fitted on."""

Levels = dict[Site, float]
Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a block."""


def greedy_in_blocks(
    model: PreTrainedModel, windows: Tensor, gates: Sequence[Gate], sample: Sample, target: float
) -> Levels:
    """Sparsity by site; every block saves the share `target` of its own bytes.

    Args:
        windows: [n, tokens] of the calibration text.
        gates: their signals are the inputs of their own linears, and nothing is put in for what is off.
    """
    levels: Levels = {}
    windows = windows[: max(1, TOKENS // windows.shape[1])].to(model.device)
    blocks = {name: list(own) for name, own in groupby(gates, key=lambda gate: gate.site.block)}
    calls = _block_calls(model, windows, list(blocks))
    with torch.no_grad(), evaluation_mode(model):
        for name, own in blocks.items():
            if len(own) == 1:  # such as the head of the model: nothing to choose between
                levels[own[0].site] = target
                continue
            levels |= _allocate(Trial(model, own, sample, calls[name]), [gate.site for gate in own], target)
    return levels


class Trial:
    """A block that runs on its captured inputs at any levels; the sinks' positions stay dense."""

    def __init__(self, model: PreTrainedModel, gates: Sequence[Gate], sample: Sample, call: Call) -> None:
        self._model, self._call = model, call
        self._gates = {gate.site: gate for gate in on_device(gates, model.device, model.dtype)}
        self._scores = {
            gate.site: gate.score(rotate(gate, x[:: -(-x.numel() // FIT_VALUES)]))
            for gate in gates
            for x in [sample.x[gate.site]]
        }
        self._selectors: dict[tuple[Site, float], Selector] = {}
        self._dense = self._run(dict.fromkeys(self._gates, 0.0))

    def error(self, levels: Mapping[Site, float]) -> float:
        """How far the block's output moves: the norm over tokens of each channel, mean over channels."""
        return float((self._run(levels) - self._dense).norm(dim=0).mean())

    def _run(self, levels: Mapping[Site, float]) -> Tensor:
        args, kwargs = self._call
        block = self._model.get_submodule(next(iter(self._gates)).block)
        with on_units(self._model, list(self._gates), lambda site, x: self._mask(site, x, levels[site])):
            output = block(*args, **kwargs)
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden[:, SINK_POSITIONS:].flatten(0, 1).float()

    def _mask(self, site: Site, x: Tensor, level: float) -> Tensor:
        if (site, level) not in self._selectors:
            self._selectors[site, level] = fit(self._gates[site].selector, self._scores[site], level)
        gate, units = self._gates[site], x.flatten(-2)
        on = mask(self._selectors[site, level], gate.score(rotate(gate, units)))
        on[:, :SINK_POSITIONS] = True
        return keep(gate, units, on).view_as(x)


def _allocate(trial: Trial, sites: Sequence[Site], target: float) -> Levels:
    sizes = {site: site.units * site.unit_bytes for site in sites}
    budget, step = target * sum(sizes.values()), STEP * sum(sizes.values())
    levels, given = dict.fromkeys(sites, 0.0), 0.0
    while budget - given > 1e-9 * budget:
        gift = min(step, budget - given)
        open_ = [site for site in sites if levels[site] < 1]
        levels = min((levels | {site: min(1.0, levels[site] + gift / sizes[site])} for site in open_), key=trial.error)
        given = sum(levels[site] * sizes[site] for site in sites)
    return min(levels, dict.fromkeys(sites, target), key=trial.error)


def _block_calls(model: PreTrainedModel, windows: Tensor, blocks: Sequence[str]) -> dict[str, Call]:
    """What each block is called with, (args, kwargs) by name."""
    found: dict[str, Call] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[name] = (args, kwargs)

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(note(name), with_kwargs=True) for name in blocks]
    try:
        with torch.no_grad(), evaluation_mode(model):
            model(windows, use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return found
