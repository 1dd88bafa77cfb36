"""A model of transformers, dense or under a recipe, as what a text is generated with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch

from sparseact.data import context_of
from sparseact.errors import UnsupportedModelError
from sparseact.masked.cache_check import keeps_states
from sparseact.masked.decoding import check_logits, evaluation_mode, stop_tokens
from sparseact.masked.density import Density
from sparseact.models.formats import Floats
from sparseact.recipes.phases import Phase
from sparseact.recipes.recipe import Recipe
from sparseact.sites import weight_bytes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@contextmanager
def masked(model: PreTrainedModel, recipe: Recipe | None = None) -> Iterator[Masked]:
    """Run texts by a model inside the `with` block, under a recipe if one is given.

    Nothing of the model's generation config but its end tokens has a say: see `sparseact.generate`.

    Raises:
        InputError: the recipe is another model's.
        UnsupportedModelError: it is for decoding only, and the model reads all of a text again for each token.
    """
    if recipe is not None and not recipe.phases.prefill and keeps_states(model):
        raise UnsupportedModelError(
            f"model: {type(model).__name__} reads all of a text again for each token, so that a recipe for decoding "
            "only would leave out nothing"
        )
    with evaluation_mode(model), recipe(model) if recipe is not None else nullcontext() as density:
        yield Masked(model, density)


class Masked:
    """See `masked` and `sparseact.generation.backend.Backend`."""

    screen = lossless = False

    def __init__(self, model: PreTrainedModel, density: Density | None) -> None:
        """density: the counts of a recipe that is on the model."""
        self.ends = stop_tokens(model)
        self.context = context_of(model.config)
        self._model, self._density = model, density
        self._phase: Phase = "prefill" if keeps_states(model) else "decode"
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
        self.reset()

    @property
    def position(self) -> int:
        """Tokens of the text so far."""
        return len(self._ids) + len(self._pending)

    def reset(self) -> None:
        """Begin a new text, and count anew."""
        self._ids: list[int] = []  # that were run
        self._pending: list[int] = []  # by `greedy`, at most one, not run yet
        self._cache: Any = None
        if self._density is not None:
            self._density.reset()

    def prefill(self, ids: Sequence[int]) -> Floats:
        """Add tokens to the text, all at once; float32 logits [vocabulary] of the token that follows."""
        if self._pending:
            self._run(self._pending)
        self._run(ids)
        return self._logits.float().cpu().numpy()

    def step(self, token: int) -> Floats:
        """Add one token to the text; float32 logits [vocabulary] of the token that follows."""
        return self.prefill([token])

    def greedy(self, n: int) -> list[int]:
        """Add the `n` likeliest tokens to the text, of equal ones the first."""
        found = []
        for _ in range(n):
            if self._pending:
                self._run(self._pending)
            check_logits(self._logits)
            self._pending = [int(self._logits.float().argmax())]
            found += self._pending
        return found

    def achieved(self) -> float:
        """Share of the gated weight bytes that decoding did not read, net of what the gates read themselves."""
        return self._density.achieved(self._phase) if self._density else 0.0

    def density_by_layer(self) -> dict[str, float]:
        """Share of the gated weight bytes that decoding read, by the layer's number or "head"."""
        return self._density.by_layer(self._phase) if self._density else {}

    def bytes_per_token(self) -> float:
        """Weight bytes read for a decoded token: blocks and head of the model."""
        return self._density.bytes_per_token(self._phase) if self._density else weight_bytes(self._model)

    def head_bytes_per_token(self) -> float:
        """None are screened."""
        return 0.0

    def acceptance(self) -> None:
        """Nothing is drafted."""

    @torch.no_grad()
    def _run(self, ids: Sequence[int]) -> None:
        """Run tokens after those before; all again where the model hands out no cache of keys and values."""
        self._pending = []
        self._ids += ids
        cached: dict[str, Any] = {} if self._cache is None else {"past_key_values": self._cache}
        tokens = torch.tensor([ids if cached else self._ids], device=self._model.device)
        output = self._model(input_ids=tokens, use_cache=True, **cached, **self._last_only)
        self._cache = getattr(output, "past_key_values", None)
        self._logits: Tensor = output.logits[0, -1]
