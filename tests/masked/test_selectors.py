"""Selectors: what a fit promises, what a mask keeps, ties, and their JSON."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sparseact.errors import InputError
from sparseact.masked.selectors import fit, mask
from sparseact.recipes.selectors import (
    NOfM,
    StatisticalTopK,
    Threshold,
    TopK,
    TopP,
    keep_count,
    selector_from_json,
    selector_to_json,
)

FITTED = {
    "threshold": Threshold(0.0),
    "top-k": TopK(0.0),
    "statistical-top-k": StatisticalTopK(0.0),
    "top-p": TopP(1.0),
    "n-of-m": NOfM(32),
}
levels = st.floats(0.05, 0.9)
# Few distinct values, so that most examples have ties.
tied = arrays(np.float32, array_shapes(min_dims=2, max_dims=3, max_side=8), elements=st.sampled_from([0.0, 0.5, 3.0]))


def heavy_tailed(seed: int, tokens: int = 400, units: int = 64) -> torch.Tensor:
    """Scores such as |x| has them: some units are much larger than others, some tokens too."""
    generator = torch.Generator().manual_seed(seed)
    unit, token = (torch.randn(n, generator=generator).exp() for n in (units, tokens))
    return torch.randn(tokens, units, generator=generator).abs() * unit * token[:, None] ** 0.2


@pytest.mark.parametrize("name", FITTED)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), sparsity=levels)
def test_a_fit_gives_the_density_that_was_asked_for(name, seed, sparsity):
    scores = heavy_tailed(seed)
    off = 1 - mask(fit(FITTED[name], scores, sparsity), scores).float().mean().item()
    # An exact count is a whole number of units (64) or of a group (32); a fitted number has no such steps.
    step = {"top-k": 0.5 / 64, "n-of-m": 0.5 / 32}.get(name, 2e-3)
    assert off == pytest.approx(sparsity, abs=step + 1e-6)


@pytest.mark.parametrize("name", FITTED)
def test_a_fit_holds_on_scores_it_has_not_seen(name):
    scores = heavy_tailed(0, tokens=4000)
    fitted = fit(FITTED[name], scores[::2], 0.5)
    assert 1 - mask(fitted, scores[1::2]).float().mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", FITTED)
def test_level_0_keeps_everything(name):
    scores = heavy_tailed(0)
    scores[0], scores[1, :5] = 0.0, 0.0
    assert mask(fit(FITTED[name], scores, 0.0), scores).all()


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("sparsity", [0.0, 0.4])
def test_json_gives_the_same_selector_back(name, sparsity):
    fitted = fit(FITTED[name], heavy_tailed(0), sparsity)
    text = json.dumps(selector_to_json(fitted), allow_nan=False)
    assert selector_from_json(json.loads(text)) == fitted


@pytest.mark.parametrize("name", FITTED)
@given(scores=tied)
def test_masks_depend_on_nothing_but_the_tokens_own_scores(name, scores):
    tokens = torch.from_numpy(scores)
    tokens = torch.cat([tokens] * 32, dim=-1)  # a multiple of 32 for n of m
    selector = fit(FITTED[name], tokens, 0.5)
    on = mask(selector, tokens)
    assert torch.equal(on, mask(selector, tokens.clone()))
    assert torch.equal(on[-1:], mask(selector, tokens[-1:]))


@given(scores=tied, n=st.integers(0, 4))
def test_n_of_m_is_a_slow_sort_of_every_group(scores, n):
    tokens = torch.cat([torch.from_numpy(scores)] * 4, dim=-1)
    on = mask(NOfM(n, 4), tokens).unflatten(-1, (-1, 4)).flatten(0, -2)
    for group, kept in zip(tokens.unflatten(-1, (-1, 4)).flatten(0, -2).tolist(), on.tolist(), strict=True):
        highest = sorted(range(4), key=lambda i: (-group[i], i))[:n]
        assert [i for i, on in enumerate(kept) if on] == sorted(highest)


def test_n_of_m_keeps_its_m_and_refuses_what_it_does_not_divide():
    assert fit(NOfM(16, 16), torch.ones(1, 48), 0.5) == NOfM(8, 16)
    with pytest.raises(InputError, match="n:m: 40 units are not a multiple of 16"):
        mask(NOfM(8, 16), torch.ones(1, 40))


@given(seed=st.integers(0, 1000), mass=st.floats(0.05, 0.99))
def test_top_p_keeps_the_smallest_set_that_holds_the_mass(seed, mass):
    scores = heavy_tailed(seed, tokens=20).double()
    kept = scores.where(mask(TopP(mass), scores), 0)
    held, wanted = kept.sum(dim=-1), mass * scores.sum(dim=-1)
    smallest = kept.where(kept > 0, torch.inf).min(dim=-1).values
    assert (held >= wanted * (1 - 1e-12)).all()
    assert (held - smallest < wanted * (1 + 1e-12)).all()


def test_golden_top_p():
    scores = torch.tensor([[5.0, 1.0, 3.0, 1.0]])
    assert mask(TopP(0.5), scores).tolist() == [[True, False, False, False]]  # 5 of 10
    assert mask(TopP(0.51), scores).tolist() == [[True, False, True, False]]
    assert mask(TopP(0.85), scores).tolist() == [[True, True, True, False]]  # the tie goes to index 1


def test_golden_statistical_top_k_on_normal_scores():
    """n = 8192, 92%: density .0799, spread over rows .002 (Spark Transformer keeps 8%)."""
    scores = torch.randn(200, 8192, generator=torch.Generator().manual_seed(0))
    density = mask(StatisticalTopK.gaussian(0.92), scores).float().mean(dim=-1)
    assert density.mean().item() == pytest.approx(0.0799, abs=2e-3)
    assert density.std().item() == pytest.approx(0.002, abs=1e-3)
    assert fit(StatisticalTopK(0.0), scores, 0.92).multiplier == pytest.approx(1.405, abs=5e-3)


@given(seed=st.integers(0, 1000), factor=st.floats(0.01, 100))
def test_a_tokens_own_rules_ignore_the_size_of_the_token(seed, factor):
    scores = heavy_tailed(seed, tokens=10).double()
    for selector in (TopK(0.5), StatisticalTopK(0.3), NOfM(8, 16)):
        assert torch.equal(mask(selector, scores), mask(selector, scores * factor))


@given(sparsity=st.floats(0, 1))
def test_top_k_counts(sparsity):
    scores = heavy_tailed(0, tokens=5)
    assert (mask(TopK(sparsity), scores).sum(dim=-1) == keep_count(64, sparsity)).all()
