"""What sparsity costs in quality, and what was really switched off."""

from sparseact.evaluation.achieved import achieved_sparsity, published_sparsity
from sparseact.evaluation.bleu import bleu
from sparseact.evaluation.perplexity import Evaluation, evaluate
from sparseact.evaluation.quality import Quality, compare, second_choices

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
