"""Which units stay on."""

from sparseact.select.selectors import (
    BELOW_ALL,
    SELECTORS,
    NOfM,
    Selector,
    StatisticalTopK,
    Threshold,
    TopK,
    TopP,
    quantile,
    quantiles,
    selector_from_json,
    selector_to_json,
)
from sparseact.select.topk import keep_count, ranks, topk_mask

__all__ = [
    "BELOW_ALL",
    "SELECTORS",
    "NOfM",
    "Selector",
    "StatisticalTopK",
    "Threshold",
    "TopK",
    "TopP",
    "keep_count",
    "quantile",
    "quantiles",
    "ranks",
    "selector_from_json",
    "selector_to_json",
    "topk_mask",
]
