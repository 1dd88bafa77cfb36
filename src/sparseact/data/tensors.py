"""Prompts as tensors, for models of torch."""

from typing import TYPE_CHECKING, Any

from sparseact.data.encode import prompt_ids

if TYPE_CHECKING:
    from torch import Tensor


def encode_prompt(tokenizer: Any, prompt: str, *, chat: bool = True) -> "Tensor":
    """As `prompt_ids`, as an int64 tensor [1, prompt_tokens]."""
    import torch

    return torch.tensor([prompt_ids(tokenizer, prompt, chat=chat)])
