"""What all policies share when they are calibrated: text to sample, sample to gates, gates to recipe."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import sparseact
from sparseact.calibration.policy import Budget, Policy
from sparseact.calibration.sample import VALUES_AT_MOST, WINDOWS_AT_ONCE, Sample, cut_windows, take_sample
from sparseact.data import sketch_passages
from sparseact.errors import InputError
from sparseact.masked.apply import run_sparse
from sparseact.masked.decoding import evaluation_mode
from sparseact.masked.recipe import fingerprint_of
from sparseact.masked.selectors import fit
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.sites import Site, skip_logits
from sparseact.utils.environment import installed_versions

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
    context = min(context, model.config.max_position_embeddings)
    windows = cut_windows(tokenizer, text, context=context, limit=max(1, tokens // context))
    digest = hashlib.sha256(text.encode()).hexdigest()
    meta = {
        "text_sha256": digest,
        "passages": sketch_passages(text),
        "tokens": windows.tokens,
        "context": context,
    }
    return CalibrationText(windows.ids, meta)


def fit_gates(
    model: PreTrainedModel, gates: Sequence[Gate], levels: Mapping[Site, float], windows: Tensor, phases: Phases
) -> list[Gate]:
    """Fit every selector to its site's level, on the dense model and then on the sparse model's own scores."""
    fitted, phases = list(gates), replace(phases, prefill=True)  # the windows stand for tokens that are decoded
    if not any(gate.selector.reads_scores for gate in gates):
        return [replace(gate, selector=fit(gate.selector, NO_SCORES, levels[gate.site])) for gate in gates]
    for round_ in range(1 + REFITS):
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


def calibrate_gates(
    policy: Policy,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    sites: Sequence[Site],
    make_gate: Callable[[Site, Sample], Gate],
    budget: Budget,
    *,
    reads: Sequence[Site] = (),
    gradient: bool = False,
) -> Recipe:
    """Calibrate a policy that is a gate per site and a budget: what every policy but a few is.

    Args:
        make_gate: the gate of a site, its selector still to be fitted.
        budget: sparsity by site; what the gates read themselves is added to its target.
        reads: sites whose inputs the gates' scales are made of, beside `sites`.
        gradient: the budget needs gradients.
    """
    started = time.monotonic()
    if not 0 <= policy.sparsity <= 1:
        raise InputError(f"sparsity: {policy.sparsity} is not between 0 and 1")
    calibration = read_text(model, tokenizer, text)
    sample = take_sample(model, [*sites, *reads], calibration.windows, gradient=gradient)
    gates = [make_gate(site, sample) for site in sites]
    dense = dict.fromkeys(sites, 0.0)
    levels = budget(gates, sample, _gross(gates, policy.sparsity, model.dtype.itemsize)) if policy.sparsity else dense
    del sample  # the largest thing here; what the gates need of it is in them
    fitted = fit_gates(model, gates, levels, calibration.windows, policy.phases)
    meta = {
        "calibration": calibration.meta,
        "element_size": model.dtype.itemsize,
        "options": asdict(policy),  # type: ignore[call-overload]
        "levels": {site.module: round(level, 4) for site, level in levels.items()},
        "seconds": round(time.monotonic() - started, 1),
        "versions": {"sparseact": sparseact.__version__, **installed_versions(("torch", "transformers"))},
    }
    return Recipe(policy.name, policy.sparsity, tuple(fitted), policy.phases, fingerprint_of(model, fitted), meta)


def _gross(gates: Sequence[Gate], sparsity: float, element_size: int) -> float:
    """The share of the bytes to switch off so that `sparsity` is left when the gates have read their own."""
    gated = sum(gate.site.units * gate.site.unit_bytes for gate in gates)
    share = sum(gate.extra_bytes(element_size) for gate in gates) / gated
    if sparsity + share > 1 + 1e-9:
        raise InputError(
            f"sparsity: {sparsity} is out of reach: what the policy itself reads for a token (adapters, "
            f"low-rank factors, predictors) is {share:.1%} of the weights; at most {1 - share:.3f}"
        )
    return min(sparsity + share, 1.0)
