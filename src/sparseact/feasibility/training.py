"""How many tokens of distillation a sparse model needs, extrapolated from a measured curve.

    ln x(n) = ln x(0) * 0.249 * (n / 82,000)^-0.362

x is perplexity over dense, n the tokens trained with the mask on. The two numbers are those of SmolLM2 with
`first-look` at half of the MLP's bytes on WikiText-2: x was 1.221 before, 1.066 after 41,000 and 1.051 after 82,000
tokens. Two points and one model: it gives an order of magnitude. On a text of another kind than that trained on, x went
from 1.253 to 1.158 only; neurons chosen by the gate fell faster at first (2.711 to 1.182 after 41,000).
"""

import math
from typing import Final

SOURCE: Final = "SmolLM2, first-look, WikiText-2: x1.221, x1.066 after 41,000 tokens, x1.051 after 82,000"
TOKENS: Final = 82_000
LEFT: Final = math.log(1.051) / math.log(1.221)
"""Share of ln x that was left after so many tokens."""
EXPONENT: Final = math.log(math.log(1.066) / math.log(1.051)) / math.log(2)


def tokens_needed(factor: float, target: float) -> float:
    """Tokens until perplexity is `target` times that of the dense model.

    Args:
        factor: what it is before training, above 1.
        target: above 1.
    """
    if factor <= target:
        return 0.0
    left = math.log(target) / math.log(factor)
    return float(TOKENS * (LEFT / left) ** (1 / EXPONENT))


def in_words(tokens: float) -> str:
    """Two digits of a number of tokens: 270,000, 1.3 million."""
    if not tokens:
        return "none"
    rounded = round(tokens, 1 - math.floor(math.log10(tokens)))
    return f"{rounded:,.0f}" if rounded < 1e6 else f"{rounded / 1e6:,.{1 if rounded < 1e7 else 0}f} million"
