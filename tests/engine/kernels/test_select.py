"""The compiled selectors choose the units that those of `sparseact.recipes.selectors` choose."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparseact.engine.forward.entries import select_rows
from sparseact.masked.selectors import fit, mask
from sparseact.recipes import selectors as select
from sparseact.recipes.selection import EVERYTHING

STARTS = [select.Threshold(0.0), select.TopK(0.0), select.StatisticalTopK(0.0), select.TopP(1.0)]


def chosen(selector, scores):
    """By the engine."""
    found = selector.selection(scores.shape[-1])
    on = np.ones(scores.shape, np.bool_)
    if found.rule != EVERYTHING:
        select_rows(found.rule, found.number, found.group, found.keep, scores.copy(), on)
    return on


def expected(selector, scores):
    return mask(selector, torch.tensor(scores)).numpy()


def normal(units, seed=0):
    """Scores of 40 tokens. No score is at the edge of what another seed's were fitted to."""
    return np.abs(np.random.default_rng(seed).standard_normal((40, units))).astype(np.float32)


@pytest.mark.parametrize("units", [16, 48, 208])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("start", STARTS)
def test_fitted_selectors_choose_alike(start, sparsity, units):
    scores = normal(units)
    selector = fit(start, torch.tensor(normal(units, seed=1)), sparsity)
    found = chosen(selector, scores)
    np.testing.assert_array_equal(found, expected(selector, scores))
    assert found.mean() == pytest.approx(1 - sparsity, abs=0.05)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (8, 16), (0, 16), (16, 16), (3, 8)])
def test_n_of_m_chooses_in_each_group(n, m):
    scores = normal(48)
    found = chosen(select.NOfM(n, m), scores)
    np.testing.assert_array_equal(found, expected(select.NOfM(n, m), scores))
    assert (found.reshape(40, -1, m).sum(-1) == n).all()


# Few values, so that many are equal: zeros of a ReLU, numbers that are hardly there, and large ones.
TIED = arrays(np.float32, (3, 24), elements=st.sampled_from([0.0, 1e-45, 1e-30, 0.5, 1.0, 3e38]))


@settings(deadline=None, max_examples=200)
@given(scores=TIED, sparsity=st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.75, 1.0]))
def test_of_equal_scores_the_first_stay(scores, sparsity):
    found = chosen(select.TopK(sparsity), scores)
    np.testing.assert_array_equal(found, expected(select.TopK(sparsity), scores))
    np.testing.assert_array_equal(chosen(select.NOfM(3, 8), scores), expected(select.NOfM(3, 8), scores))


@settings(deadline=None, max_examples=100)
@given(scores=arrays(np.float32, (2, 40), elements=st.floats(0, 100, width=32)), mass=st.floats(0.01, 0.99))
def test_top_p_holds_the_mass_and_no_unit_more(scores, mass):
    on = chosen(select.TopP(mass), scores)
    for row, chosen_row in zip(scores.astype(np.float64), on, strict=True):
        kept = row[chosen_row]
        assert kept.sum() >= mass * row.sum() * (1 - 1e-5)
        if len(kept):
            assert kept[kept > kept.min()].sum() < mass * row.sum() * (1 + 1e-5)


@pytest.mark.parametrize("selector", [select.TopK(0.5), select.TopP(0.5), select.StatisticalTopK(0.0)])
def test_zeros_are_chosen_as_on_torch(selector):
    zeros = np.zeros((2, 16), np.float32)
    np.testing.assert_array_equal(chosen(selector, zeros), expected(selector, zeros))


@pytest.mark.parametrize("start", [*STARTS, select.NOfM(16, 16)])
def test_level_0_leaves_everything_on(start):
    scores = normal(48)
    assert fit(start, torch.tensor(scores), 0.0).selection(48).rule == EVERYTHING
