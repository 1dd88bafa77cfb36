"""Perplexity of a text, sparse and dense side by side: the ruler of every policy."""

from __future__ import annotations

import copy
import math
import sys
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from tqdm import tqdm

from sparseact.data import shared_passages
from sparseact.data.windows import cut_text
from sparseact.errors import NotFiniteError
from sparseact.evaluation.interval import ratio_interval
from sparseact.evaluation.logits import check_sizes, read_one_by_one, read_together
from sparseact.masked.cache_check import check_cache, keeps_states
from sparseact.masked.decoding import evaluation_mode
from sparseact.masked.density import Density
from sparseact.recipes.phases import Phase
from sparseact.recipes.recipe import Recipe
from sparseact.sites import weight_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Evaluation:
    """A sparse model against the dense one on the same tokens of a text.

    Attributes:
        perplexity, perplexity_dense: exp of the mean negative log-likelihood of the text's tokens.
        ratio_interval: ends of the 95% interval of perplexity / perplexity_dense over windows; None of a single one.
        kl: KL divergence from the dense to the sparse distribution, nats per token.
        agreement: share of tokens at which both models' most likely token is the same.
        achieved: share of the gated weight bytes that were not read, in the phase that was measured.
        achieved_by_phase: the same for the prefill and the decode tokens; phases without tokens are left out.
        achieved_by_site: share of the units of each kind of site that were off, such as `mlp.down_proj`.
        bytes_per_token, bytes_per_token_dense: weight bytes read for a token, of blocks and head, and
            what the policy itself reads (adapters, predictors).
        tokens: how many tokens were predicted.
        context: tokens of a window, its BOS token included.
        stride: tokens from one window to the next.
        phase: whether the predicted tokens were read together (prefill) or one at a time (decode).
        overlap: share of the passages of the recipe's calibration text that stand in this text too, estimated.
    """

    perplexity: float
    perplexity_dense: float
    ratio_interval: tuple[float, float] | None
    kl: float
    agreement: float
    achieved: float
    achieved_by_phase: dict[str, float]
    achieved_by_site: dict[str, float]
    bytes_per_token: float
    bytes_per_token_dense: float
    tokens: int
    context: int
    stride: int
    phase: Phase
    overlap: float

    def as_text(self) -> str:
        """A few lines for a reader."""
        more = self.perplexity / self.perplexity_dense - 1
        parts = [self.achieved_by_phase, self.achieved_by_site]
        detail = "; ".join(", ".join(f"{name} {share:.1%}" for name, share in part.items()) for part in parts if part)
        sizes = (
            f"{self.bytes_per_token / 1e6:.1f} MB of weights per token, dense {self.bytes_per_token_dense / 1e6:.1f}"
        )
        ends = self.ratio_interval
        sure = "" if ends is None else f"; 95% interval {ends[0] - 1:+.2%} to {ends[1] - 1:+.2%}, over windows"
        rows = {
            "perplexity": f"{self.perplexity:.3f}, dense {self.perplexity_dense:.3f} ({more:+.2%}{sure})",
            "KL": f"{self.kl:.4f} nats per token from the dense model",
            "agreement": f"{self.agreement:.1%} of the most likely tokens",
            "achieved": f"{self.achieved:.1%} of the gated weight bytes not read" + (f" ({detail})" if detail else ""),
            "bytes": sizes,
            "on": f"{self.tokens} tokens, {self.phase}, context {self.context}, stride {self.stride}",
        }
        return "\n".join(f"{name:<12}{value}" for name, value in rows.items())


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    recipe: Recipe | None = None,
    context: int = 512,
    stride: int | None = None,
    limit: int | None = None,
    phase: Phase | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Perplexity of a text, KL divergence from the dense model, and what was really not read.

    Args:
        recipe: the calibrated policy; None measures the dense model alone.
        context: tokens of a window; every window starts with the BOS token, if the tokenizer has one. No more than
            the model has positions.
        stride: tokens from one window to the next; each window predicts the tokens that no window before it
            has. By default windows do not overlap in the prefill phase, and by half in the decode phase.
        limit: use at most this many windows, spread evenly over the text.
        phase: `prefill` reads a window at once, `decode` reads the predicted tokens one at a time after
            the others. By default decode if the recipe is for decoding only, else prefill.
        progress: a bar on standard error; by default if that is a terminal.

    Raises:
        NotFiniteError: what a model says of a token is no number.
        UnsupportedModelError: the model's cache is not what it is taken for.
        InputError: the text is too short, an option is out of range, or the recipe is another model's.
    """
    phase = phase or ("decode" if recipe is not None and _decodes_only(recipe) else "prefill")
    context, stride = check_sizes(model, context, stride, phase)
    if phase == "decode" or not keeps_states(model):
        check_cache(model)
    windows = cut_text(tokenizer, text, context=context, stride=stride, decode=phase == "decode", limit=limit)
    dense_model = model if recipe is None else _twin(model)
    read = read_together if phase == "prefill" else read_one_by_one
    by_window = torch.zeros(len(windows), 5, dtype=torch.float64)
    with (
        torch.no_grad(),
        evaluation_mode(model),
        evaluation_mode(dense_model),
        recipe(model) if recipe is not None else nullcontext() as density,
    ):
        bar = tqdm(windows, desc="eval", unit="window", disable=None if progress is None else not progress)
        for number, window in enumerate(bar):
            all_dense = read_together(dense_model, window)
            all_sparse = read(model, window) if recipe is not None else repeat(None)
            label = torch.tensor(window.ids[window.first :], device=model.device)
            for dense, sparse in zip(all_dense, all_sparse, strict=False):
                by_window[number] += sums_over_tokens(dense if sparse is None else sparse, dense, label[: len(dense)])
                label = label[len(dense) :]
    nll, nll_dense, kl, agreed, tokens = by_window.sum(dim=0).tolist()
    dense_bytes = weight_bytes(model)
    return Evaluation(
        perplexity=_exp(nll / tokens),
        perplexity_dense=_exp(nll_dense / tokens),
        ratio_interval=ratio_interval((by_window[:, 0] - by_window[:, 1]).numpy(), by_window[:, 4].numpy()),
        kl=kl / tokens,
        agreement=agreed / tokens,
        achieved=density.achieved(phase) if density else 0.0,
        achieved_by_phase=_by_phase(density) if density else {},
        achieved_by_site=_by_site(density, phase) if density else {},
        bytes_per_token=density.bytes_per_token(phase) if density else dense_bytes,
        bytes_per_token_dense=dense_bytes,
        tokens=int(tokens),
        context=context,
        stride=stride,
        phase=phase,
        overlap=shared_passages(_calibration_passages(recipe), text) if recipe else 0.0,
    )


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < math.log(sys.float_info.max) else math.inf


def _calibration_passages(recipe: Recipe) -> str:
    return str(recipe.meta.get("calibration", {}).get("passages", ""))


def _decodes_only(recipe: Recipe) -> bool:
    return not recipe.phases.prefill or any(gate.frozen for gate in recipe.gates)


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    """A second model over the same weights, for hooks on the one not to touch the other."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


def sums_over_tokens(sparse: Tensor, dense: Tensor, label: Tensor) -> Tensor:
    """Sums [5] over tokens: nll, nll of the dense model, KL (nats), same most likely token, tokens.

    Args:
        sparse, dense: logits [tokens, vocabulary].
        label: the text's tokens [tokens].

    Raises:
        NotFiniteError: a sum is none.
    """
    sparse_log, dense_log = (log_softmax(logits.float(), dim=-1) for logits in (sparse, dense))
    nll, nll_dense = (-log.gather(-1, label[:, None]).double().sum() for log in (sparse_log, dense_log))
    agreed = (sparse_log.argmax(dim=-1) == dense_log.argmax(dim=-1)).sum()
    kl = (dense_log.exp() * (dense_log - sparse_log)).sum(dim=-1).double().sum()
    sums = torch.stack([nll, nll_dense, kl, agreed.double(), agreed.new_tensor(len(label)).double()]).cpu()
    if not bool(sums.isfinite().all()):  # the likeliest of no numbers agrees with itself
        raise NotFiniteError
    return sums


def _by_phase(density: Density) -> dict[str, float]:
    phases = {phase for (_, phase), tokens in density.tokens.items() if tokens}
    return {phase: density.achieved(phase) for phase in ("prefill", "decode") if phase in phases}


def _by_site(density: Density, phase: Phase) -> dict[str, float]:
    """Share of units off by kind of site, weighted by their bytes."""
    off: dict[str, float] = defaultdict(float)
    total: dict[str, float] = defaultdict(float)
    for gate in density.gates:
        kind = gate.site.name.rpartition(".")[0]
        size = gate.site.units * gate.site.unit_bytes
        off[kind] += density.share_off(gate, phase) * size
        total[kind] += size
    return {kind: off[kind] / total[kind] for kind in total}
