"""What sparsity costs in quality, and what was really switched off."""

from sparseact.measure.density import achieved_sparsity, published_sparsity
from sparseact.measure.perplexity import Evaluation, evaluate
from sparseact.measure.quality import Quality, compare, second_choices
from sparseact.measure.text import bleu

__all__ = [
    "Evaluation",
    "Quality",
    "achieved_sparsity",
    "bleu",
    "compare",
    "evaluate",
    "published_sparsity",
    "second_choices",
]
