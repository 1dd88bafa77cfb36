"""What is trained of a model: all but embeddings and head, or low-rank adapters; and the dense model to learn from."""

from __future__ import annotations

import copy
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparseact.errors import require
from sparseact.sites import dissect

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def dense_teacher(model: PreTrainedModel, *, shared: bool) -> PreTrainedModel:
    """A frozen copy of the model, with the same weights in memory if they will not be trained."""
    weights = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())} if shared else {}
    teacher: PreTrainedModel = copy.deepcopy(model, weights)
    return teacher.eval().requires_grad_(requires_grad=False)


def trainable(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """All parameters by name but those of the embeddings and the head, which are frozen."""
    ends = {id(p) for end in (model.get_input_embeddings(), model.get_output_embeddings()) for p in end.parameters()}
    model.requires_grad_(requires_grad=True)
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in ends)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def add_lora(model: PreTrainedModel, rank: int, seed: int) -> Any:
    """Put adapters beside every linear of the blocks, in the model itself; W + 2 B A, B = 0 (Hu et al. 2021).

    Returns:
        peft's model over it, whose `merge_and_unload` takes the adapters into the weights.

    Raises:
        MissingExtraError: peft is not installed.
    """
    require("train", "peft")
    from peft import LoraConfig, get_peft_model

    names = sorted({name.rpartition(".")[2] for block in dissect(model)[0] for name in block.layout.modules})
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, lora_dropout=0.0, bias="none")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)
