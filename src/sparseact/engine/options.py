"""What the user of an engine asks for, checked: numbers, tokens, and ways to decode that do not go together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sparseact.errors import InputError


def check_modes(*, screen: bool, lossless: bool, recipe: bool, masks_head: bool) -> None:
    """Refuse ways to decode that do not go together.

    Args:
        screen: whether the head is screened.
        lossless: whether a recipe only drafts.
        recipe: whether there is one.
        masks_head: whether it switches off inputs of the head.

    Raises:
        InputError: the reason.
    """
    if lossless and not recipe:
        raise InputError("lossless: drafts are sparse; give the engine a recipe")
    if lossless and screen:
        raise InputError("lossless: is exact, and a screen is not; leave out one of both")
    if screen and masks_head:
        raise InputError("screen: this recipe chooses inputs of the head itself (lm_head=true); leave out one of both")


def checked(name: str, value: int | None, default: int, lowest: int, highest: int | None) -> int:
    """The value of an option, or its default where it is None.

    Raises:
        InputError: it is not an integer from `lowest` to `highest`.
    """
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{name}: {value!r} is not an integer")
    if value < lowest or (highest is not None and value > highest):
        wanted = f"at least {lowest}" if highest is None else f"between {lowest} and {highest}"
        raise InputError(f"{name}: {value} is not {wanted}")
    return int(value)


def checked_tokens(ids: Any, vocabulary: int) -> npt.NDArray[np.int64]:
    """Tokens as an array.

    Raises:
        InputError: they are not a list of at least one integer below `vocabulary`.
    """
    tokens = np.asarray(ids)
    if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind not in "iu":
        raise InputError(f"the tokens must be a list of at least one integer, not {tokens.dtype} {tokens.shape}")
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise InputError(f"tokens from {tokens.min()} to {tokens.max()}; the vocabulary has 0 to {vocabulary - 1}")
    return tokens.astype(np.int64)
