"""Which units stay on."""

from sparseact.select.topk import keep_count, ranks, topk_mask

__all__ = ["keep_count", "ranks", "topk_mask"]
