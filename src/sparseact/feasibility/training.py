"""How many tokens of distillation a sparse model needs: an order of magnitude.

    ln x(n) = ln x(0) * 0.498 * (n / 369,000)^-0.362

x is perplexity over dense, n the tokens trained with the mask on. What is left after 369,000 tokens is SmolLM2's with
`leading-bits` and a third of the neurons on, on a text of another kind than that trained on: x1.084 became x1.041. With
half of the neurons on .336 was left, with a quarter .534; one text, one run, one seed.

How it goes on is not known. That run changed its learning rate on the way, so the exponent is of a shorter one, of
`first-look` at half of the MLP's bytes on the kind of text that it was trained on: x1.221 became x1.066 after 41,000
tokens and x1.051 after 82,000.
"""

import math
from typing import Final

SOURCE: Final = "SmolLM2 with leading-bits, x1.084 to x1.041 in 369,000 tokens"
TOKENS: Final = 369_000
LEFT: Final = math.log(1.041) / math.log(1.084)
"""Share of ln x that was left after so many tokens."""
EXPONENT: Final = math.log(math.log(1.066) / math.log(1.051)) / math.log(2)


def tokens_needed(factor: float, target: float) -> float:
    """Tokens until perplexity is `target` times that of the dense model.

    Args:
        factor: what it is before training.
        target: above 1.
    """
    if factor <= target:
        return 0.0
    left = math.log(target) / math.log(factor)
    return float(TOKENS * (LEFT / left) ** (1 / EXPONENT))


def in_words(tokens: float) -> str:
    """One digit of a number of tokens: 300,000, 1 million."""
    if not tokens:
        return "none"
    rounded = round(tokens, -math.floor(math.log10(tokens)))
    return f"{rounded:,.0f}" if rounded < 1e6 else f"{rounded / 1e6:,.0f} million"
