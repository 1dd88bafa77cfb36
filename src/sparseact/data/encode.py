"""Prompts as token ids."""

from typing import Any

from sparseact.errors import InputError


def check_text(option: str, text: str) -> None:
    """Refuse text that is none: the command line makes half characters of bytes that are not UTF-8.

    Raises:
        InputError: names the option.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{option}: character {error.start + 1} is half of one; this is not UTF-8 text") from error


def prompt_ids(tokenizer: Any, prompt: str, *, chat: bool = True) -> list[int]:
    """One prompt as token ids, as the model expects to be asked.

    Args:
        tokenizer: of `sparseact.models.load_tokenizer`, or of transformers.
        prompt: the text.
        chat: put the prompt into the tokenizer's chat template, up to where the answer begins, if it
            has one. A base model has none and gets the plain text.

    Returns:
        At least one token.

    Raises:
        InputError: the prompt gives no tokens or is no text, or the chat template refuses it.
    """
    check_text("prompt", prompt)
    text, chat = prompt, bool(chat and tokenizer.chat_template)
    if chat:
        messages = [{"role": "user", "content": prompt}]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            # Templates are programs that come with the model and raise what they like.
            said = " ".join(str(error).split())
            raise InputError(f"the tokenizer's chat template fails ({said}); `chat` off leaves it out") from error
    ids: list[int] = tokenizer.encode(text, add_special_tokens=not chat)
    if not ids:
        raise InputError(f"the prompt {prompt!r} gives no tokens")
    return ids


def context_of(config: Any) -> int | None:
    """Tokens that a text of a model can have; None if nothing limits them.

    Some rotary embeddings (longrope, dynamic) take other frequencies for all of a text once it is longer than the
    original context. Keys that were cached before have the first ones; a text ends there.

    Args:
        config: the model's configuration.
    """
    text = config.get_text_config()
    context: int | None = getattr(text, "max_position_embeddings", None)
    given = getattr(text, "rope_parameters", None) or {}
    for rope in [given, *(part for part in given.values() if isinstance(part, dict))]:
        kind = rope.get("rope_type", rope.get("type"))
        changes = kind == "dynamic" or (kind == "longrope" and rope.get("short_factor") != rope.get("long_factor"))
        original = rope.get("original_max_position_embeddings", getattr(text, "original_max_position_embeddings", None))
        if changes and original:
            context = min(original, context or original)
    return context


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
    context = context_of(config)
    if context is not None:
        check_room(context, prompt_tokens, new_tokens, index)


def check_room(context: int, prompt_tokens: int, new_tokens: int, index: int = 0) -> None:
    """As `check_context`, for a context of so many tokens."""
    if prompt_tokens + new_tokens > context:
        raise InputError(
            f"prompt {index}: {prompt_tokens} tokens and {new_tokens} new ones are more than the model's "
            f"context of {context} tokens"
        )
