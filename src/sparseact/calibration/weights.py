"""What scales and compensations read of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseact.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def weight_of(model: PreTrainedModel, site: Site) -> Tensor:
    """The weight [outputs, inputs] of a site's linear, float32 on the CPU."""
    from transformers.pytorch_utils import Conv1D

    linear = model.get_submodule(site.module)
    weight = linear.weight.detach()
    assert isinstance(weight, Tensor)
    return (weight.T if isinstance(linear, Conv1D) else weight).to("cpu", torch.float32)


def column_norms(model: PreTrainedModel, site: Site) -> Tensor:
    """||W_:j||_2 of each input channel [inputs]."""
    return weight_of(model, site).norm(dim=0)
