r"""Attention in which gradients reach no other position: one pass is then exact for every token.

By causality a unit at position t reaches the loss at t only through its own stream; every other path
crosses positions through K or V. Cut those edges, keep the values, and
d(sum_s loss_s)/dx_t = d loss_t/dx_t exactly (the method is derived in docs/one-pass.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from sparseact.errors import UnsupportedModelError

KeysValues = dict[int, tuple[Tensor, Tensor]]
"""Dense keys and values [batch, kv_heads, positions, head_dim] by layer index."""

_names = (f"sparseact_own_position_{index}" for index in count())


@contextmanager
def own_position_attention(
    model: PreTrainedModel, *, record: KeysValues | None = None, others: KeysValues | None = None
) -> Iterator[None]:
    """Attend to constants at other positions, for the time of the `with` block.

    Args:
        model: must use transformers' attention interface.
        record: filled with every layer's keys and values.
        others: keys and values to use for the other positions instead of this pass's own ones.

    Raises:
        UnsupportedModelError: the model's attention can't be exchanged.
    """
    name, before = next(_names), model.config._attn_implementation  # noqa: SLF001 - there is no public reader
    AttentionInterface.register(name, _attention(record, others))
    AttentionMaskInterface.register(name, eager_mask)
    try:
        try:
            model.set_attn_implementation(name)
        except (ValueError, NotImplementedError) as error:
            raise UnsupportedModelError(f"{type(model).__name__}: {error}") from error
        if model.config._attn_implementation != name:  # noqa: SLF001
            raise UnsupportedModelError(
                f"{type(model).__name__} does not use transformers' attention interface, which attribution needs"
            )
        yield
    finally:
        model.set_attn_implementation(before)
        for table in (AttentionInterface, AttentionMaskInterface):
            table._global_mapping.pop(name)  # noqa: SLF001 - register has no public inverse


def _attention(record: KeysValues | None, others: KeysValues | None) -> Callable[..., tuple[Tensor, None]]:
    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        scaling: float | None = None,
        softcap: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        if kwargs.get("s_aux") is not None:
            raise UnsupportedModelError(f"{type(module).__name__}: attention sinks are not supported")
        if record is not None:
            record[module.layer_idx] = (key.detach(), value.detach())
        other_key, other_value = (key, value) if others is None else others[module.layer_idx]
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        steps = query.shape[-2]
        own_key, own_value = (_spread(x[..., -steps:, :], query) for x in (key, value))
        other_key, other_value = (_spread(x.detach(), query) for x in (other_key, other_value))
        row = torch.arange(steps, device=query.device)
        column = row + other_key.shape[-2] - steps

        logits = (query @ other_key.mT) * scaling
        logits[..., row, column] = (query * own_key).sum(-1) * scaling
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        exact = torch.promote_types(query.dtype, torch.float32)
        weights = (logits + attention_mask).softmax(-1, dtype=exact).to(query.dtype)
        own_weight = weights[..., row, column].unsqueeze(-1)
        output = weights @ other_value + own_weight * (own_value - other_value[..., -steps:, :])
        return output.transpose(1, 2).contiguous(), None

    return attend


def _spread(x: Tensor, query: Tensor) -> Tensor:
    """Repeat key-value heads [batch, kv_heads, ...] to the number of query heads."""
    return x.repeat_interleave(query.shape[1] // x.shape[1], dim=1)
