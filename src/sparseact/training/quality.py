"""Perplexity and KL on windows that were not trained on, beside the dense model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparseact.evaluation.perplexity import sums_over_tokens
from sparseact.masked.decoding import evaluation_mode
from sparseact.training.text import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HeldOut:
    """A model on the held-out windows of one text.

    Attributes:
        perplexity, perplexity_dense: exp of the mean negative log-likelihood of the text's tokens.
        kl: from the dense model, nats per token.
        tokens: that were predicted.
    """

    perplexity: float
    perplexity_dense: float
    kl: float
    tokens: int

    @property
    def increase(self) -> float:
        """Of perplexity over the dense model's, as a share."""
        return self.perplexity / self.perplexity_dense - 1

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"increase": self.increase}


def held_out(
    model: PreTrainedModel,
    dense: PreTrainedModel,
    sources: Sequence[Source],
    masked: AbstractContextManager[Any],
    dtype: torch.dtype,
    *,
    windows: int,
) -> dict[str, HeldOut]:
    """Measure a model by the name of each text.

    Args:
        masked: entered around the model's passes.
        dense: another model than `model`, which masks do not touch.
        dtype: of the products.
        windows: of each text at most, spread evenly over what is held out.
    """
    found = {}
    with (
        torch.no_grad(),
        evaluation_mode(model),
        evaluation_mode(dense),
        torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32),
        masked,
    ):
        for source in sources:
            totals = torch.zeros(5, dtype=torch.float64)
            for window in _spread(source.held_out, windows).to(model.device):
                ours, theirs = (which(window[None], use_cache=False).logits[0, :-1] for which in (model, dense))
                totals += sums_over_tokens(ours, theirs, window[1:]).cpu()
            nll, nll_dense, kl, _, tokens = totals.tolist()
            perplexities = math.exp(nll / tokens), math.exp(nll_dense / tokens)
            found[source.name] = HeldOut(*perplexities, kl / tokens, int(tokens))
    return found


def _spread(held_out: Tensor, windows: int) -> Tensor:
    return held_out[torch.linspace(0, len(held_out) - 1, min(windows, len(held_out))).round().long()]
