"""The sparsity that a loss of quality allows: PPL-p% (Luo et al. 2024, arXiv 2411.02335), for any policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sparseact.calibration.policy import Policy
from sparseact.errors import InputError
from sparseact.evaluation import evaluate
from sparseact.recipes.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CALIBRATION_SHARE = 0.75


def max_sparsity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    policy: Callable[..., Policy],
    text: str,
    increase: float = 0.01,
    *,
    tolerance: float = 0.005,
    context: int = 256,
    limit: int = 16,
) -> Recipe:
    """The recipe with the highest sparsity whose perplexity is at most `1 + increase` times the dense model's.

    The first three quarters of the text calibrate, the rest is what is measured, so that no rule is judged
    on what it was fitted to. The sparsity is bisected: one calibration and evaluation for each halving.

    Args:
        policy: makes the policy of a level, such as a policy's class: called as `policy(sparsity=level)`.
        increase: of the perplexity, .01 for 1%.
        tolerance: of the sparsity.
        context, limit: measure on at most so many windows of so many tokens.

    Returns:
        The recipe; its meta has `perplexity_increase`: asked, found, and the number of tokens measured.

    Raises:
        InputError: a negative increase, or a text that is too short.
    """
    if not 0 <= increase < math.inf:
        raise InputError(f"max_perplexity_increase: {increase} is not 0 or more")
    cut = int(len(text) * CALIBRATION_SHARE)

    def measure(level: float) -> tuple[Recipe, float]:
        recipe = policy(sparsity=level).calibrate(model, tokenizer, text[:cut])
        found = evaluate(model, tokenizer, text[cut:], recipe=recipe, context=context, limit=limit, progress=False)
        change = found.perplexity / found.perplexity_dense - 1
        meta = {"asked": increase, "found": change, "tokens": found.tokens}
        return replace(recipe, meta=recipe.meta | {"perplexity_increase": meta}), change

    best, low, high = None, 0.0, 1.0
    while high - low > tolerance:
        middle = (low + high) / 2
        recipe, change = measure(middle)
        if change <= increase:
            best, low = recipe, middle
        else:
            high = middle
    return best or measure(0.0)[0]
