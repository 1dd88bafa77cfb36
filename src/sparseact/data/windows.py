"""A text as windows of tokens, for calibration and evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparseact.data.encode import check_text
from sparseact.errors import InputError


@dataclass(frozen=True)
class Window:
    """Tokens to read, and where among them the predicted ones begin.

    Attributes:
        ids: the BOS token first if the tokenizer has one.
        first: index of the first token that is predicted; those before it are its context only.
    """

    ids: list[int]
    first: int


def cut_text(
    tokenizer: Any, text: str, *, context: int, stride: int, decode: bool = False, limit: int | None = None
) -> list[Window]:
    """Cut a text into windows, `stride` tokens apart, which predict each token once at most.

    Args:
        context: tokens of a window; the last one may have fewer.
        decode: a window predicts its last `stride` tokens only, so that there is a prompt before them. Else it predicts
            every token (but the first, where no BOS token stands before it).
        limit: at most this many windows, spread evenly over the text.

    Raises:
        InputError: there is nothing to predict.
    """
    ids, bos = _tokens(tokenizer, text)
    own, predicted = context - len(bos), 1 - len(bos)
    windows = []
    for start in range(0, len(ids), stride):
        end = min(start + own, len(ids))
        first = max(predicted, start + 1 - len(bos), end - stride if decode else 0)
        if first < end:
            windows.append(Window(bos + ids[start:end], first - start + len(bos)))
        predicted = end
        if end == len(ids):
            break
    if not windows:
        raise InputError(f"text: {len(ids)} tokens leave nothing to predict; a longer text is needed")
    return [windows[place] for place in _places(len(windows), limit)]


def cut_whole(tokenizer: Any, text: str, *, context: int, limit: int | None = None) -> list[list[int]]:
    """Cut a text into windows of exactly `context` tokens, one after the other; what does not fill one is left out.

    Raises:
        InputError: the text is shorter than one window.
    """
    ids, bos = _tokens(tokenizer, text)
    own = context - len(bos)
    if len(ids) < own:
        raise InputError(f"text: {len(ids)} tokens are fewer than one window of {own}; a longer text is needed")
    return [bos + ids[place * own : (place + 1) * own] for place in _places(len(ids) // own, limit)]


def _tokens(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """The text's tokens, and the BOS token if there is one."""
    check_text("text", text)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], bos


def _places(count: int, limit: int | None) -> Sequence[int]:
    """The places 0 to count - 1, or `limit` of them, spread evenly.

    Rounded as torch.linspace rounds, in float32 and from both ends: results of today are on the windows of yesterday's.
    """
    if limit is None or count <= limit:
        return range(count)
    k, step = np.arange(limit), float(np.float32((count - 1) / max(limit - 1, 1)))
    places = np.where(k < max(limit // 2, 1), step * k, count - 1 - step * k[::-1])
    return [int(place) for place in places.astype(np.float32)]
