"""Positions and phase of every token of a forward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparseact.errors import UnsupportedModelError
from sparseact.recipes.phases import Phase, Phases


@dataclass(frozen=True)
class Clock:
    """The tokens of one forward pass.

    Attributes:
        phase: decode while one token follows cached ones.
        begins: whether the tokens are a text's first ones.
        real: [batch, tokens], false for padding.
        sparse: [batch, tokens], whether the policy's masks hold.
        logits: which of the tokens go through the head of the model.
    """

    phase: Phase
    begins: bool
    real: Tensor
    sparse: Tensor
    logits: slice | Tensor

    def at_head(self) -> Clock:
        """The clock of the tokens that go through the head of the model, and through layers that run no others."""
        return replace(self, real=self.real[:, self.logits], sparse=self.sparse[:, self.logits])


def read_clock(arguments: dict[str, Any], phases: Phases) -> Clock:
    """The clock of a forward pass, from the arguments of a transformers causal LM.

    Raises:
        UnsupportedModelError: the text goes on from states alone, so that the tokens' positions are not known.
    """
    if arguments.get("cache_params") is not None:
        raise UnsupportedModelError(
            "model: a recipe does not run on a text that goes on from cached states, which do not say how long it is; "
            "use sparseact.generate, or model.generate(use_cache=False)"
        )
    tokens = arguments.get("input_ids")
    tokens = arguments["inputs_embeds"] if tokens is None else tokens
    batch, count = tokens.shape[:2]
    cache = arguments.get("past_key_values")
    seen = int(cache.get_seq_length()) if cache is not None else 0
    mask = arguments.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        real = mask[:, -count:].bool()
        positions = (mask.long().cumsum(dim=1) - 1)[:, -count:]
    elif (given := arguments.get("position_ids")) is not None:  # generate with a static cache
        positions = given.expand(batch, -1)
        real = positions.diff(dim=1, append=positions[:, -1:] + 1) > 0  # padding does not count on
    else:
        real = torch.ones(batch, count, dtype=torch.bool, device=tokens.device)
        positions = seen + torch.arange(count, device=tokens.device).expand(batch, -1)
    phase: Phase = "decode" if count == 1 and seen else "prefill"
    on = phases.prefill or phase == "decode"
    keep = arguments.get("logits_to_keep", 0)
    logits = slice(-keep, None) if isinstance(keep, int) else keep  # as transformers' models do; 0 keeps all
    return Clock(phase, not seen, real, (positions >= phases.dense_first) & on, logits)
