"""Prompts as token ids."""

from typing import TYPE_CHECKING, Any

from sparseact.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def encode_prompt(tokenizer: Any, prompt: str, *, chat: bool = True) -> "Tensor":
    """As `prompt_ids`, as an int64 tensor [1, prompt_tokens]."""
    import torch

    return torch.tensor([prompt_ids(tokenizer, prompt, chat=chat)])


def prompt_ids(tokenizer: Any, prompt: str, *, chat: bool = True) -> list[int]:
    """One prompt as token ids, as the model expects to be asked.

    Args:
        tokenizer: a tokenizer of transformers.
        prompt: the text.
        chat: put the prompt into the tokenizer's chat template, up to where the answer begins, if it
            has one. A base model has none and gets the plain text.

    Returns:
        At least one token.

    Raises:
        InputError: the prompt gives no tokens, or the chat template refuses it.
    """
    if chat and tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}]
        try:
            encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        except Exception as error:
            # Templates are programs that come with the model and raise what they like.
            said = " ".join(str(error).split())
            raise InputError(f"the tokenizer's chat template fails ({said}); `chat` off leaves it out") from error
    else:
        encoded = tokenizer(prompt)
    ids: list[int] = encoded["input_ids"]
    if not ids:
        raise InputError(f"the prompt {prompt!r} gives no tokens")
    return ids


def check_context(config: Any, prompt_tokens: int, new_tokens: int, index: int) -> None:
    """Refuse a prompt that does not fit the model's context together with the tokens to generate.

    Args:
        config: the model's configuration.
        prompt_tokens: length of the encoded prompt.
        new_tokens: how many tokens will be generated at most.
        index: which prompt it is, counted from 0; named in the error.

    Raises:
        InputError: prompt_tokens + new_tokens is more than the model's positions.
    """
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is not None:
        check_room(context, prompt_tokens, new_tokens, index)


def check_room(context: int, prompt_tokens: int, new_tokens: int, index: int = 0) -> None:
    """As `check_context`, for a context of so many tokens."""
    if prompt_tokens + new_tokens > context:
        raise InputError(
            f"prompt {index}: {prompt_tokens} tokens and {new_tokens} new ones are more than the model's "
            f"context of {context} tokens"
        )
