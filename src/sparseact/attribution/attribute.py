"""Scores of the units for the tokens that a model generates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparseact.attribution.methods.corrected_gxo import HeadsFormula
from sparseact.attribution.methods.integrated_gradients import path_gradients
from sparseact.attribution.one_pass import IGNORED, attribute_in_one_pass
from sparseact.attribution.registry import MetricOptions, make_metric, score_sites
from sparseact.data import check_context, encode_prompt
from sparseact.errors import InputError
from sparseact.masked.decoding import decode_greedily, evaluation_mode, pad_left, prefill, stop_tokens
from sparseact.sites import find_sites
from sparseact.utils.files import write_atomically

VERSION = 1


@dataclass(frozen=True)
class Scores:
    """Scores of one prompt's generated tokens.

    Attributes:
        tokens: [T] ids of the label: the model's own dense greedy tokens, or those given.
        prompt_tokens: [P] ids of the prompt.
        values: `mlp.{layer}` [T, neurons] and `heads.{layer}` [T, heads].
        meta: metric and options that made them.
    """

    tokens: Tensor
    prompt_tokens: Tensor
    values: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """Scores of one site, by name: `scores["mlp.0"]`."""
        return self.values[name]

    def save(self, folder: str | Path) -> None:
        """Write scores.safetensors (tensors) and scores.json (metric, options) into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {**self.values, "tokens": self.tokens, "prompt_tokens": self.prompt_tokens}
        with write_atomically(folder / "scores.safetensors") as path:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
        with write_atomically(folder / "scores.json") as path:
            path.write_text(json.dumps({"version": VERSION, **self.meta}, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            InputError: the folder holds no scores, or those of a newer version.
        """
        folder = Path(folder)
        try:
            meta = json.loads((folder / "scores.json").read_text())
            values = load_file(folder / "scores.safetensors")
            version, tokens, prompt = meta.pop("version"), values.pop("tokens"), values.pop("prompt_tokens")
        except Exception as error:  # a damaged file raises what its reader likes
            raise InputError(f"{folder}: no readable scores here ({error!r})") from error
        if version != VERSION:
            raise InputError(f"{folder}: scores of another version than {VERSION}; update sparseact")
        return cls(tokens, prompt, values, meta)


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


def attribute_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    metric: str = "corrected-gxo",
    units: str = "both",
    max_new_tokens: int = 32,
    labels: Sequence[Tensor] | None = None,
    correction: float | Literal["auto"] = 0.5,
    heads_formula: HeadsFormula = "released",
    ig_steps: int = 20,
    seed: int = 0,
    chat: bool = True,
) -> list[Scores]:
    """Score every unit for every token that the model generates after each prompt, as one batch.

    All layers and tokens cost one forward and one backward (integrated gradients: `ig_steps` of
    each per layer and kind).

    Args:
        prompts: run as one left-padded batch.
        metric: a name in `METRICS`.
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
        raise InputError("metric 'ig' takes one prompt at a time")
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
