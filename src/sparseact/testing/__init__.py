"""For tests, ours and other packages': tiny models that need no download, and the contract of a policy."""

from sparseact.testing.contract import check_policy
from sparseact.testing.tiny import (
    BOS,
    DISTINCT,
    EOS,
    FAMILIES,
    HEADS,
    HIDDEN,
    LAYERS,
    NEURONS,
    PAD,
    POSITIONS,
    SLIDING_WINDOW,
    VOCABULARY,
    float64_model,
    tiny_model,
    tiny_tokenizer,
)

__all__ = [
    "BOS",
    "DISTINCT",
    "EOS",
    "FAMILIES",
    "HEADS",
    "HIDDEN",
    "LAYERS",
    "NEURONS",
    "PAD",
    "POSITIONS",
    "SLIDING_WINDOW",
    "VOCABULARY",
    "check_policy",
    "float64_model",
    "tiny_model",
    "tiny_tokenizer",
]
