"""What masks cost on a text: the dense logits are computed once, then each recipe is compared with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseact.data.windows import Window, cut_text
from sparseact.errors import InputError
from sparseact.evaluation.logits import check_sizes, read_together
from sparseact.evaluation.perplexity import sums_over_tokens
from sparseact.masked.decoding import evaluation_mode
from sparseact.recipes.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONTEXT = 256
LEAST_TOKENS = 100


@dataclass(frozen=True)
class Loss:
    """A sparse model against the dense one.

    Attributes:
        factor: its perplexity over that of the dense model.
        kl: KL divergence from the dense model, nats per token.
    """

    factor: float
    kl: float


class Ruler:
    """A text and the dense model's logits for it.

    Attributes:
        tokens: that are predicted.
        perplexity: of the dense model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        text: str,
        *,
        tokens: int,
        context: int = CONTEXT,
    ) -> None:
        """Read about `tokens` tokens of the text, in windows of `context` (or the model's own) spread evenly.

        Raises:
            InputError: the text has fewer than 100 tokens.
        """
        context, stride = check_sizes(model, context, None, "prefill")
        limit = max(1, tokens // context)
        self.windows = cut_text(tokenizer, text, context=context, stride=stride, limit=limit)
        self.tokens = sum(len(window.ids) - window.first for window in self.windows)
        if self.tokens < LEAST_TOKENS:
            raise InputError(f"text: {self.tokens} tokens to measure on; at least {LEAST_TOKENS} are needed")
        self.model = model
        with torch.no_grad(), evaluation_mode(model):
            self.dense = [list(read_together(model, window)) for window in self.windows]
        totals = torch.stack([self._sums(window, dense, dense) for window, dense in self._pairs()])
        self.perplexity = math.exp(float(totals[:, 0].sum() / self.tokens))

    def loss(self, recipe: Recipe) -> Loss:
        """What a recipe costs."""
        totals = torch.zeros(5, dtype=torch.float64)
        with torch.no_grad(), evaluation_mode(self.model), recipe(self.model):
            for window, dense in self._pairs():
                totals += self._sums(window, list(read_together(self.model, window)), dense)
        nll, nll_dense, kl, _, tokens = totals.tolist()
        return Loss(math.exp((nll - nll_dense) / tokens), kl / tokens)

    def _pairs(self) -> Iterator[tuple[Window, list[Tensor]]]:
        return zip(self.windows, self.dense, strict=True)

    def _sums(self, window: Window, sparse: list[Tensor], dense: list[Tensor]) -> Tensor:
        label = torch.tensor(window.ids[window.first :], device=self.model.device)
        return sums_over_tokens(torch.cat(sparse), torch.cat(dense), label)
