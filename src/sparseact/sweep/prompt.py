"""One prompt of a sweep: label, scores, masks, and what every cell makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparseact.attribution.one_pass import attribute_in_one_pass
from sparseact.attribution.path import path_gradients
from sparseact.attribution.registry import find_metric, make_metric, score_sites
from sparseact.evaluation import Quality, bleu, compare, second_choices
from sparseact.masked.decoding import Prefix, decode_greedily, prefill, stop_tokens, teacher_force
from sparseact.masked.selectors import ranks
from sparseact.sites import Site, find_sites, on_units
from sparseact.sweep.diagnostics import diagnose
from sparseact.sweep.masks import CellMasks
from sparseact.sweep.plan import Cell, Plan

LOGITS_AT_ONCE = 2**26
"""Logits held by one batch of cells."""

Row = dict[str, Any]
Ranks = dict[Site, Tensor]
"""Of every unit, int32 [metrics, T, units]."""


@dataclass(frozen=True)
class PromptResult:
    """Rows of samples.parquet and of diagnostics.parquet for one prompt."""

    samples: list[Row]
    diagnostics: list[Row]


def evaluate_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    ids: Tensor,
    index: int,
    *,
    after_cells: Callable[[int], object] = lambda number: None,
) -> PromptResult:
    """Evaluate every cell of the plan on one prompt.

    Args:
        ids: [1, prompt_tokens].
        index: the prompt's number; it seeds the random control.
        after_cells: called with the number of cells that were finished.
    """
    sites = _sites(model, plan)
    prefix = prefill(model, ids)
    label = decode_greedily(model, prefix, plan.max_new_tokens, stop_tokens(model))[0]
    with torch.no_grad():
        dense = teacher_force(model, prefix, label[None])[0]
    runner_up = second_choices(dense, label)

    scores = _scores(model, plan, sites, prefix, label, label, index)
    label_ranks = _ranks(scores, sites)
    leak_ranks = _ranks(_scores(model, plan, sites, prefix, label, runner_up, index), sites)
    dense_nll = float(compare(dense[None], dense, label, runner_up).nll)
    run = _Run(model, tokenizer, plan, prefix, label, dense, runner_up, dense_nll)
    samples = []
    for cells in run.batches(plan.cells()):
        samples += run.evaluate(cells, label_ranks, leak_ranks)
        after_cells(len(cells))
    for row in samples:
        row.update(prompt=index, prompt_tokens=ids.shape[1])
    diagnostics = [{"prompt": index, **row} for row in diagnose(scores, label_ranks, plan)]
    return PromptResult(samples, diagnostics)


def _sites(model: PreTrainedModel, plan: Plan) -> list[Site]:
    units = plan.units[0] if len(plan.units) == 1 else "both"
    sites = find_sites(model, units)
    if plan.bug_compatible:  # layers 0 to 23 of Phi-2's 32
        sites = [site for site in sites if site.layer < int(0.75 * model.config.num_hidden_layers)]
    return sites


def _scores(
    model: PreTrainedModel,
    plan: Plan,
    sites: Sequence[Site],
    prefix: Prefix,
    label: Tensor,
    target: Tensor,
    index: int,
) -> dict[str, dict[Site, Tensor]]:
    """Scores [T, units] by metric and site when `target` is attributed."""
    metrics = {name: make_metric(name, plan.metric_options(index)) for name in plan.metrics}
    found = attribute_in_one_pass(model, sites, prefix, label[None], target=target[None])
    gradients: dict[str, Mapping[Site, Tensor]] = {"none": found.gradient, "own": found.gradient}
    if any(metric.reads == "path" for metric in metrics.values()):
        gradients["path"] = path_gradients(
            model, sites, prefix, label[None], found.keys_values, steps=plan.ig_steps, target=target[None]
        )
    return {
        name: {site: score[0] for site, score in score_sites(metric, found.x, gradients[metric.reads]).items()}
        for name, metric in metrics.items()
    }


def _ranks(scores: dict[str, dict[Site, Tensor]], sites: Sequence[Site]) -> Ranks:
    return {site: torch.stack([ranks(by_site[site]) for by_site in scores.values()]) for site in sites}


@dataclass(frozen=True)
class _Run:
    """What all cells of a prompt share."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    plan: Plan
    prefix: Prefix
    label: Tensor
    dense: Tensor
    runner_up: Tensor
    dense_nll: float

    def batches(self, cells: Sequence[Cell]) -> Iterator[Sequence[Cell]]:
        size = max(1, LOGITS_AT_ONCE // self.dense.numel())
        for start in range(0, len(cells), size):
            yield cells[start : start + size]

    def evaluate(self, cells: Sequence[Cell], label_ranks: Ranks, leak_ranks: Ranks) -> list[Row]:
        masks = self._masks(label_ranks, cells)
        quality = self._teacher_forced(masks, len(cells))
        leak = self._leak(cells, leak_ranks, quality)
        texts = self._free_running(label_ranks, cells, quality)
        text_dense = self._text(self.label)
        return [
            {
                "metric": cell.metric,
                "units": cell.units,
                "sparsity": cell.sparsity,
                "heads_sparsity": cell.heads_sparsity,
                "achieved": achieved,
                "tokens": len(self.label),
                "agreement": float(quality.agreement[row]),
                "nll": float(quality.nll[row]),
                "nll_dense": self.dense_nll,
                "kl": float(quality.kl[row]),
                "bleu": bleu(self._text(text), text_dense, effective_order=not self.plan.bug_compatible),
                "exact": torch.equal(text, self.label),
                "leak": float(leak[row]),
                "text": self._text(text),
                "text_dense": text_dense,
            }
            for row, (cell, achieved, text) in enumerate(zip(cells, masks.achieved(), texts, strict=True))
        ]

    def _leak(self, cells: Sequence[Cell], leak_ranks: Ranks, quality: Quality) -> Tensor:
        """Share of steps that say the runner-up under masks that attribute it; label-free masks stay."""
        leak = quality.runner_up.clone()
        rows = [row for row, cell in enumerate(cells) if find_metric(cell.metric).is_oracle()]
        if rows:
            masks = self._masks(leak_ranks, [cells[row] for row in rows])
            leak[rows] = self._teacher_forced(masks, len(rows)).runner_up
        return leak

    def _masks(self, of_units: Ranks, cells: Sequence[Cell]) -> CellMasks:
        return CellMasks(of_units, self.plan.metrics, cells, bug_compatible=self.plan.bug_compatible)

    @torch.no_grad()
    def _teacher_forced(self, masks: CellMasks, cells: int) -> Quality:
        with on_units(self.model, masks.sites, masks.apply):
            logits = teacher_force(self.model, self.prefix, self.label.expand(cells, -1))
        return compare(logits, self.dense, self.label, self.runner_up)

    def _free_running(self, label_ranks: Ranks, cells: Sequence[Cell], quality: Quality) -> list[Tensor]:
        """Greedy texts under the masks of the dense trajectory, by position.

        A run that agrees with the dense model at every teacher-forced step sees the same tokens when
        it runs freely, so it writes the same text and need not be run.
        """
        texts = [self.label] * len(cells)
        strays = [row for row in range(len(cells)) if quality.agreement[row] < 1]
        if strays:
            masks = self._masks(label_ranks, [cells[row] for row in strays])
            with on_units(self.model, masks.sites, masks.apply):
                found = decode_greedily(
                    self.model,
                    self.prefix,
                    len(self.label),
                    stop_tokens(self.model),
                    times=len(strays),
                    before_step=masks.go_to,
                )
            for row, text in zip(strays, found, strict=True):
                texts[row] = text
        return texts

    def _text(self, tokens: Tensor) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=not self.plan.bug_compatible))
