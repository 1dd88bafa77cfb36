"""Top-k: exact counts, ties by index, nested levels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sparseact.errors import InputError
from sparseact.masked.selectors import QUANTILE_VALUES, quantile, ranks, topk_mask
from sparseact.recipes.selectors import keep_count

# Few distinct values, so that most examples have ties.
scores = arrays(
    np.float32, array_shapes(max_dims=3, max_side=9), elements=st.sampled_from([-2.0, 0.0, 0.5, 3.0, np.inf])
)
levels = st.floats(0, 1)


def test_golden_ranks_and_mask():
    score = torch.tensor([[0.1, 0.9, 0.5, 0.9, -1.0]])
    assert ranks(score).tolist() == [[3, 0, 2, 1, 4]]
    assert topk_mask(score, 0.8).tolist() == [[False, True, False, False, False]]  # the tie goes to index 1
    assert topk_mask(score, 0.6).tolist() == [[False, True, False, True, False]]
    assert topk_mask(score, 0.4).tolist() == [[False, True, True, True, False]]


@pytest.mark.parametrize(
    ("units", "sparsity", "kept"),
    [(10, 0.0, 10), (10, 0.8, 2), (10, 1.0, 0), (1536, 0.8, 307), (9, 0.8, 2), (9, 0.5, 4), (4, 0.5, 2), (1, 0.49, 1)],
)
def test_golden_counts(units, sparsity, kept):
    assert keep_count(units, sparsity) == kept


@given(st.integers(1, 20_000), levels)
def test_the_count_is_the_nearest_possible(units, sparsity):
    kept = keep_count(units, sparsity)
    assert 0 <= kept <= units
    assert abs((units - kept) - sparsity * units) <= 0.5 + 1e-9


@given(scores, levels)
def test_every_token_keeps_exactly_as_many(score, sparsity):
    mask = topk_mask(torch.from_numpy(score), sparsity)
    assert mask.shape == score.shape
    assert (mask.sum(dim=-1) == keep_count(score.shape[-1], sparsity)).all()


@given(scores)
def test_ranks_are_a_slow_sort_by_score_then_index(score):
    found = ranks(torch.from_numpy(score)).reshape(-1, score.shape[-1]).tolist()
    for row, rank in zip(score.reshape(-1, score.shape[-1]).tolist(), found, strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))
        assert [rank[i] for i in order] == list(range(len(row)))


@given(scores, levels)
def test_a_mask_is_what_the_ranks_say(score, sparsity):
    score = torch.from_numpy(score)
    expected = ranks(score) < keep_count(score.shape[-1], sparsity)
    assert torch.equal(topk_mask(score, sparsity), expected)
    assert torch.equal(topk_mask(score.bfloat16(), sparsity), expected)


def test_ties_go_by_index_in_a_wide_layer():
    """torch sorts short rows stably anyway; this one it does not."""
    mask = topk_mask(torch.zeros(2, 1536), 0.8)
    assert mask[:, :307].all()
    assert not mask[:, 307:].any()


@given(scores, levels)
def test_nothing_dropped_scores_higher_than_what_is_kept(score, sparsity):
    mask = topk_mask(torch.from_numpy(score), sparsity).numpy()
    lowest_kept = np.where(mask, score, np.inf).min(axis=-1)
    highest_dropped = np.where(mask, -np.inf, score).max(axis=-1)
    assert (lowest_kept >= highest_dropped).all()


@given(scores, levels, levels)
def test_a_sparser_mask_is_part_of_a_denser_one(score, one, other):
    sparser, denser = (topk_mask(torch.from_numpy(score), level) for level in sorted([one, other], reverse=True))
    assert (denser | ~sparser).all()


@given(scores)
def test_level_0_keeps_all_and_level_1_none(score):
    assert topk_mask(torch.from_numpy(score), 0).all()
    assert not topk_mask(torch.from_numpy(score), 1).any()


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan"), 80])
def test_a_level_outside_0_to_1_is_refused(sparsity):
    with pytest.raises(InputError, match=r"sparsity: .* is not between 0 and 1"):
        keep_count(10, sparsity)


def test_a_quantile_of_many_scores_looks_at_every_unit():
    # Half of the units score 1, the other half 0: a stride that divides their number would see one half only.
    scores = torch.tensor([1.0, 0.0]).repeat(QUANTILE_VALUES, 1)
    assert quantile(scores, 0.25) == 0
    assert quantile(scores, 0.75) == 1
