"""How close a freely generated text is to the dense model's."""

from __future__ import annotations

from functools import cache
from typing import Any

from sparseact.errors import MissingExtraError


def bleu(text: str, reference: str, *, effective_order: bool = True) -> float:
    """Sentence BLEU, 0 to 100 (sacrebleu: 13a, exponential smoothing).

    Args:
        effective_order: count only the n-gram orders that the text is long enough for. Without it,
            as in the released code of Song et al., an exact match of fewer than 4 tokens scores 0.
    """
    if effective_order and text == reference:
        return 100.0
    return float(_scorer(effective_order).sentence_score(text, [reference]).score)


@cache
def _scorer(effective_order: bool) -> Any:  # noqa: FBT001 - a cache key
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise MissingExtraError("sacrebleu", "sweep") from error
    return BLEU(effective_order=effective_order)
