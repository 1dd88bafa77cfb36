"""The parts of a calibration: the text, what the gates themselves cost, and the selectors, fitted to scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparseact.calibration.sample import VALUES_AT_MOST, WINDOWS_AT_ONCE
from sparseact.data import context_of, sketch_passages
from sparseact.data.windows import cut_whole
from sparseact.errors import InputError
from sparseact.masked.apply import run_sparse
from sparseact.masked.decoding import evaluation_mode
from sparseact.masked.selectors import fit, mask
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.sites import Site, skip_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REFITS = 2
"""Times that the selectors are fitted again on the inputs of the sparse model: what is dropped upstream
makes later activations smaller, so thresholds of the dense model overshoot."""

NO_SCORES = torch.zeros(0, 0)
"""For selectors that their level alone decides."""


@dataclass(frozen=True)
class CalibrationText:
    """The windows of a calibration text, and what a recipe says of it."""

    windows: Tensor
    meta: dict[str, Any]


def read_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, *, tokens: int = 2048, context: int = 256
) -> CalibrationText:
    """About `tokens` tokens of a text, in windows of `context` (or the model's own) spread evenly over it."""
    context = min(context, context_of(model.config) or context)
    windows = cut_whole(tokenizer, text, context=context, limit=max(1, tokens // context))
    meta = {
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "passages": sketch_passages(text),
        "tokens": len(windows) * (context - (tokenizer.bos_token_id is not None)),
        "context": context,
    }
    return CalibrationText(torch.tensor(windows), meta)


def fit_gates(
    model: PreTrainedModel,
    gates: Sequence[Gate],
    levels: Mapping[Site, float],
    windows: Tensor,
    phases: Phases,
    *,
    nearly: bool = False,
) -> list[Gate]:
    """Fit every selector to its site's level, on the dense model and then on the sparse model's own scores.

    Args:
        nearly: the selectors are near their levels already, so that one pass of the sparse model is enough.
    """
    fitted, phases = list(gates), replace(phases, prefill=True)  # the windows stand for tokens that are decoded
    if not any(gate.selector.reads_scores for gate in gates):
        return [replace(gate, selector=fit(gate.selector, NO_SCORES, levels[gate.site])) for gate in gates]
    for round_ in range(REFITS if nearly else 0, 1 + REFITS):
        scores = observe_scores(model, fitted, windows, phases, masked=round_ > 0)
        fitted = [replace(gate, selector=fit(gate.selector, scores[gate.site], levels[gate.site])) for gate in fitted]
    return fitted


def observe_scores(
    model: PreTrainedModel, gates: Sequence[Gate], windows: Tensor, phases: Phases, *, masked: bool
) -> dict[Site, Tensor]:
    """Scores [tokens, units] of every gate while the model runs, dense or under the gates themselves."""
    stride = -(-windows.numel() * sum(gate.site.units for gate in gates) // VALUES_AT_MOST)
    found: dict[Site, list[Tensor]] = {gate.site: [] for gate in gates}

    def note(gate: Gate, scores: Tensor) -> None:
        found[gate.site].append(scores[::stride].float().cpu())

    with (
        torch.no_grad(),
        evaluation_mode(model),
        run_sparse(model, gates, phases, masked=masked, on_scores=note),
        skip_logits(model),
    ):
        for window in windows.to(model.device).split(WINDOWS_AT_ONCE):
            model(window, use_cache=False)
    return {site: torch.cat(parts) if parts else torch.zeros(0, site.units) for site, parts in found.items()}


def mean_where_off(gate: Gate, x: Tensor, scores: Tensor, sparsity: float) -> Tensor:
    """The mean of each unit [units] over the tokens for which it is off at a sparsity; 0 where it never is.

    Args:
        x, scores: [tokens, units].
    """
    off = ~mask(fit(gate.selector, scores, sparsity), scores)
    return (x * off).sum(dim=0) / off.sum(dim=0).clamp(min=1)


def gross_sparsity(gates: Sequence[Gate], sparsity: float, element_size: int) -> float:
    """The share of the bytes to switch off so that `sparsity` is left when the gates have read their own.

    Raises:
        InputError: it is more than all.
    """
    gated = sum(gate.site.units * gate.site.unit_bytes for gate in gates)
    share = sum(gate.extra_bytes(element_size) for gate in gates) / gated
    if sparsity + share > 1 + 1e-9:
        raise InputError(
            f"sparsity: {sparsity} is out of reach: what the policy itself reads for a token (adapters, "
            f"low-rank factors, predictors) is {share:.1%} of the weights; at most {1 - share:.3f}"
        )
    return min(sparsity + share, 1.0)
