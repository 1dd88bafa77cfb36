"""One prompt of a sweep: label, scores, masks, and what every cell makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparseact.attribution.one_pass import attribute_in_one_pass
from sparseact.attribution.path import path_gradients
from sparseact.attribution.registry import find_metric, make_metric, score_sites
from sparseact.evaluation import Quality, bleu, compare, second_choices
from sparseact.masked.decoding import decode_greedily, prefill, stop_tokens, teacher_force
from sparseact.masked.selectors import ranks
from sparseact.sites import Site, find_sites, on_units
from sparseact.sweep.diagnostics import diagnose
from sparseact.sweep.masks import CellMasks
from sparseact.sweep.plan import Cell, Plan

LOGITS_AT_ONCE = 2**26
"""Logits held by one batch of cells."""

Row = dict[str, Any]
Scores = dict[str, dict[Site, Tensor]]
"""Of every unit, [T, units], by metric and site."""
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
    run = _Run(model, tokenizer, plan, ids)
    scores = run.scores(run.label, index)
    of_label, of_runner_up = run.ranks(scores), run.ranks(run.scores(run.runner_up, index))
    cells, at_once = plan.cells(), max(1, LOGITS_AT_ONCE // run.dense.numel())
    samples = []
    for start in range(0, len(cells), at_once):
        part = cells[start : start + at_once]
        samples += run.evaluate(part, of_label, of_runner_up)
        after_cells(len(part))
    for row in samples:
        row.update(prompt=index, prompt_tokens=ids.shape[1])
    return PromptResult(samples, [{"prompt": index, **row} for row in diagnose(scores, of_label, plan)])


class _Run:
    """What all cells of a prompt share: its cache, label [T], dense logits [T, vocabulary] and second choices [T]."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plan: Plan, ids: Tensor) -> None:
        self.model, self.tokenizer, self.plan = model, tokenizer, plan
        self.sites = find_sites(model, plan.units[0] if len(plan.units) == 1 else "both")
        if plan.bug_compatible:  # layers 0 to 23 of Phi-2's 32
            layers = int(0.75 * model.config.num_hidden_layers)
            self.sites = [site for site in self.sites if site.layer < layers]
        self.prefix = prefill(model, ids)
        self.label = decode_greedily(model, self.prefix, plan.max_new_tokens, stop_tokens(model))[0]
        with torch.no_grad():
            self.dense = teacher_force(model, self.prefix, self.label[None])[0]
        self.runner_up = second_choices(self.dense, self.label)
        self.dense_nll = float(compare(self.dense[None], self.dense, self.label, self.runner_up).nll)

    def scores(self, target: Tensor, index: int) -> Scores:
        """By every metric, when `target` is attributed."""
        metrics = {name: make_metric(name, self.plan.metric_options(index)) for name in self.plan.metrics}
        label, target = self.label[None], target[None]
        found = attribute_in_one_pass(self.model, self.sites, self.prefix, label, target=target)
        gradients: dict[str, Mapping[Site, Tensor]] = {"none": found.gradient, "own": found.gradient}
        if any(metric.reads == "path" for metric in metrics.values()):
            steps, dense = self.plan.ig_steps, found.keys_values
            gradients["path"] = path_gradients(
                self.model, self.sites, self.prefix, label, dense, steps=steps, target=target
            )
        return {
            name: {site: score[0] for site, score in score_sites(metric, found.x, gradients[metric.reads]).items()}
            for name, metric in metrics.items()
        }

    def ranks(self, scores: Scores) -> Ranks:
        """The scores' ranks, the metrics in the order of the plan."""
        return {site: torch.stack([ranks(by_site[site]) for by_site in scores.values()]) for site in self.sites}

    def evaluate(self, cells: Sequence[Cell], of_label: Ranks, of_runner_up: Ranks) -> list[Row]:
        """The rows of some cells."""
        masks = self._masks(of_label, cells)
        quality = self._teacher_forced(masks, len(cells))
        leak = self._leak(cells, of_runner_up, quality)
        runs = self._free_running(of_label, cells, quality)
        texts = [self._text(tokens) for tokens in runs]
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
                "bleu": bleu(texts[row], text_dense, effective_order=not self.plan.bug_compatible),
                "exact": torch.equal(runs[row], self.label),
                "leak": float(leak[row]),
                "text": texts[row],
                "text_dense": text_dense,
            }
            for row, (cell, achieved) in enumerate(zip(cells, masks.achieved(), strict=True))
        ]

    def _masks(self, of_units: Ranks, cells: Sequence[Cell]) -> CellMasks:
        return CellMasks(of_units, self.plan.metrics, cells, bug_compatible=self.plan.bug_compatible)

    def _leak(self, cells: Sequence[Cell], of_runner_up: Ranks, quality: Quality) -> Tensor:
        """Share of steps that say the runner-up under masks that attribute it; label-free masks stay."""
        leak = quality.runner_up.clone()
        rows = [row for row, cell in enumerate(cells) if find_metric(cell.metric).is_oracle()]
        if rows:
            masks = self._masks(of_runner_up, [cells[row] for row in rows])
            leak[rows] = self._teacher_forced(masks, len(rows)).runner_up
        return leak

    @torch.no_grad()
    def _teacher_forced(self, masks: CellMasks, cells: int) -> Quality:
        with on_units(self.model, masks.sites, masks.apply):
            logits = teacher_force(self.model, self.prefix, self.label.expand(cells, -1))
        return compare(logits, self.dense, self.label, self.runner_up)

    def _free_running(self, of_label: Ranks, cells: Sequence[Cell], quality: Quality) -> list[Tensor]:
        """Greedy texts under the masks of the dense trajectory, by position.

        A run that agrees with the dense model at every teacher-forced step sees the same tokens when
        it runs freely, so it writes the same text and need not be run.
        """
        runs = [self.label] * len(cells)
        strays = [row for row in range(len(cells)) if quality.agreement[row] < 1]
        if strays:
            masks, stop = self._masks(of_label, [cells[row] for row in strays]), stop_tokens(self.model)
            steps, times = len(self.label), len(strays)
            with on_units(self.model, masks.sites, masks.apply):
                found = decode_greedily(self.model, self.prefix, steps, stop, times=times, before_step=masks.go_to)
            for row, tokens in zip(strays, found, strict=True):
                runs[row] = tokens
        return runs

    def _text(self, tokens: Tensor) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=not self.plan.bug_compatible))
