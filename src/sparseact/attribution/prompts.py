"""Scores of the units for the tokens that a model generates after prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparseact.attribution.methods.corrected_gxo import CorrectedGxO, Correction, HeadsFormula
from sparseact.attribution.methods.integrated_gradients import STEPS
from sparseact.attribution.one_pass import IGNORED, attribute_in_one_pass
from sparseact.attribution.path import path_gradients
from sparseact.attribution.registry import MetricOptions, make_metric, score_sites
from sparseact.attribution.scores import Scores
from sparseact.data import check_context, encode_prompt
from sparseact.errors import InputError
from sparseact.masked.decoding import decode_greedily, evaluation_mode, pad_left, prefill, stop_tokens
from sparseact.sites import find_sites


def attribute(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    label: Tensor | None = None,
    **options: Any,
) -> Scores:
    """Score every unit for every token that the model generates after a prompt.

    Args:
        label: [T] token ids to attribute instead of the greedy continuation.
        options: as for `attribute_batch`.

    Raises:
        InputError: as `attribute_batch`.
    """
    return attribute_batch(model, tokenizer, [prompt], labels=None if label is None else [label], **options)[0]


@torch.inference_mode(mode=False)
def attribute_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    metric: str = CorrectedGxO.name,
    units: str = "both",
    max_new_tokens: int = 32,
    labels: Sequence[Tensor] | None = None,
    correction: Correction = CorrectedGxO.correction,
    heads_formula: HeadsFormula = CorrectedGxO.heads_formula,
    ig_steps: int = STEPS,
    seed: int = 0,
    chat: bool = True,
) -> list[Scores]:
    """Score every unit for every token that the model generates after each prompt, as one batch.

    All layers and tokens cost one forward and one backward (integrated gradients: `ig_steps` of
    each per layer and kind).

    Args:
        prompts: run as one left-padded batch.
        metric: a name in `known_metrics`.
        units: "mlp", "heads" or "both".
        labels: [T_i] token ids to attribute instead of the greedy continuations.
        correction, heads_formula: see `CorrectedGxO`.
        chat: use the tokenizer's chat template where it has one.

    Returns:
        One `Scores` per prompt.

    Raises:
        InputError: an unknown metric or unit, a prompt that does not fit the context, scores that
            are not finite.
    """
    scorer = make_metric(metric, MetricOptions(correction, heads_formula, seed))
    if scorer.reads == "path" and len(prompts) != 1:
        raise InputError(f"metric {metric!r} takes one prompt at a time")
    for option, number in (("max_new_tokens", max_new_tokens), ("ig_steps", ig_steps)):
        if number < 1:
            raise InputError(f"{option}: {number} is not at least 1")
    if not prompts or (labels is not None and len(labels) != len(prompts)):
        raise InputError(f"{len(prompts)} prompts and {len(labels or [])} labels; one label for each is needed")
    if any(label.ndim != 1 or not len(label) for label in labels or []):
        raise InputError("label: not a row of at least one token id")
    sites = find_sites(model, units)
    ids = [encode_prompt(tokenizer, text, chat=chat).to(model.device) for text in prompts]
    for index, row in enumerate(ids):
        check_context(model.config, row.shape[1], len(labels[index]) if labels else max_new_tokens, index)

    with evaluation_mode(model):
        prefix = prefill(model, *pad_left(ids, pad=0))
        if labels is None:
            labels = decode_greedily(model, prefix, max_new_tokens, stop_tokens(model))
        labels = [label.to(model.device) for label in labels]
        padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        found = attribute_in_one_pass(model, sites, prefix, padded)
        gradient = found.gradient
        if scorer.reads == "path":
            gradient = path_gradients(model, sites, prefix, padded, found.keys_values, steps=ig_steps)
        scores = score_sites(scorer, found.x, gradient)

    meta = {"metric": metric, "units": units, "correction": correction, "heads_formula": heads_formula, "seed": seed}
    return [
        Scores(
            tokens,
            row[0],
            {site.name: score[index, : len(tokens)].detach() for site, score in scores.items()},
            {**meta, "prompt": text},
        )
        for index, (tokens, row, text) in enumerate(zip(labels, ids, prompts, strict=True))
    ]
