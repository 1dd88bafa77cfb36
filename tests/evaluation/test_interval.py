"""Intervals over windows: of pairs, and by hand where there are two windows."""

import math

import numpy as np
import pytest

from sparseact.evaluation import evaluate
from sparseact.evaluation.interval import ratio_interval
from sparseact.policies import TEAL
from sparseact.testing import tiny_model, tiny_tokenizer


def test_of_two_windows_the_ends_are_the_windows_themselves():
    """A quarter of the draws takes the one twice, a quarter the other."""
    found = ratio_interval([10 * math.log(1.1), 30 * math.log(1.3)], [10, 30])
    assert found == pytest.approx((1.1, 1.3))


def test_windows_that_lose_alike_have_no_width_however_much_their_texts_differ():
    tokens = np.array([10, 20, 30])
    assert ratio_interval(tokens * math.log(1.2), tokens) == pytest.approx((1.2, 1.2))
    assert ratio_interval([1.0], [10]) is None


def test_long_windows_count_more():
    """One of 1,000 tokens that loses nothing among short ones: where it is drawn, it decides."""
    low, high = ratio_interval([0.0, *[10 * math.log(2)] * 4], [1000, *[10] * 4])
    assert low < 1.01
    assert high == pytest.approx(2)  # in a third of the draws it is not among them


def test_an_evaluation_has_the_interval_of_its_windows():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    text = "How vexingly quick daft zebras jump! Pack my box with five dozen liquor jugs, said the wizard. " * 4
    recipe = TEAL(sparsity=0.6).calibrate(model, tokenizer, "Sphinx of black quartz, judge my vow. " * 20)
    found = evaluate(model, tokenizer, text, recipe=recipe, context=64, progress=False)
    low, high = found.ratio_interval
    assert low < found.perplexity / found.perplexity_dense < high
    assert f"95% interval {low - 1:+.2%} to {high - 1:+.2%}, over windows" in found.as_text()
    one = evaluate(model, tokenizer, text, recipe=recipe, context=64, limit=1, progress=False)
    assert one.ratio_interval is None
    assert "interval" not in one.as_text()
