"""Linears of torch that read only the leading bits of their weights: w = s (step high + (step - 1) / 2).

Weights are taken as the engine has them at 8 bits (`models.formats`, q8): w = s q for 32 inputs, s = max |w| / 127.
With step = 2^(8 - bits), high = floor(q / step); what the other bits add, 0 to step - 1, counts as its middle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad
from torch.utils.weak import WeakTensorKeyDictionary

from sparseact.models.formats import BLOCK

if TYPE_CHECKING:
    from jaxtyping import Float

_KNOWN: Any = WeakTensorKeyDictionary()
"""Of each weight the state that it was last read in, and its leading bits then."""


def leading_bits(weight: Float[Tensor, "outputs inputs"], bits: int) -> Float[Tensor, "outputs inputs"]:
    """What is known of a weight from so many of its 8 bits; the dtype is the weight's."""
    inputs = weight.shape[1]
    blocks = pad(weight.detach().float(), (0, -inputs % BLOCK)).unflatten(1, (-1, BLOCK))
    scale = (blocks.abs().amax(dim=-1, keepdim=True) / 127).half().float()
    codes = (blocks * torch.where(scale > 0, 1 / scale, 0)).round().clamp(-127, 127)
    step = 2 ** (8 - bits)
    known = (codes / step).floor() * step + (step - 1) / 2
    return (known * scale).flatten(1)[:, :inputs].to(weight.dtype)


def linear_of(module: Any, x: Float[Tensor, "*batch inputs"], bits: int) -> Float[Tensor, "*batch outputs"]:
    """What a linear puts out if it reads so many leading bits of its weight as it is now."""
    return linear(x, _current(module, bits), module.bias)


def _current(module: Any, bits: int) -> Tensor:
    """The leading bits, computed anew only when the weight was changed, as an optimizer does in place."""
    from transformers.pytorch_utils import Conv1D

    weight = module.weight
    state = weight._version, weight.data_ptr(), weight.dtype, bits  # noqa: SLF001 - torch has no public name for it
    known = _KNOWN.get(weight)
    if known is None or known[0] != state:
        whole = weight.T if isinstance(module, Conv1D) else weight
        known = _KNOWN[weight] = state, leading_bits(whole, bits)
    found: Tensor = known[1]
    return found
