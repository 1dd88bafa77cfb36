"""Formulas of the neuron policies on their own: golden vectors, computed by hand (numpy), and properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import silu

from sparseact.calibration.regression import reduced_rank_regression
from sparseact.masked.apply import prompt_scores
from sparseact.masked.selectors import fit, mask, topk_mask
from sparseact.policies import Gate
from sparseact.policies.cett import LEVELS, cett, cett_curve, equal_cett
from sparseact.policies.chess import root_mean_square
from sparseact.policies.deja_vu import recall_of
from sparseact.recipes.selectors import Threshold
from sparseact.sites import find_sites
from sparseact.testing import tiny_model

GATE = torch.tensor([[1, -2, 0.1, 3], [0.2, -0.5, 2, -4]])
UP = torch.tensor([[0.5, 2, -1, 0.1], [4, 0.2, 0.3, 1]])
DOWN = torch.tensor([[1, 0.2, -3, 0.5], [0.5, -0.1, 2, 0.1], [-1, 0.3, 1, 4]])


def test_golden_chess():
    scale = root_mean_square(UP)
    assert torch.allclose(scale.square(), torch.tensor([8.125, 2.02, 0.545, 0.505]))
    site = find_sites(tiny_model("llama"), "mlp")[0]
    gate = Gate(site, Threshold(0.0), scale=scale)
    scores = gate.score(silu(GATE))
    fitted = fit(Threshold(0.0), scores, 0.5)
    assert fitted.value**2 == pytest.approx(0.0983, abs=5e-5)
    assert (fitted.value / scale).tolist() == pytest.approx([0.11, 0.2205, 0.4246, 0.4411], abs=1e-4)
    assert mask(fitted, scores).int().tolist() == [[1, 1, 0, 1], [0, 0, 1, 0]]


def test_golden_griffin():
    scores = prompt_scores((silu(GATE) * UP)[None], torch.ones(1, 2, dtype=torch.bool))
    assert scores[0].tolist() == pytest.approx([0.8388, 0.7165, 0.7673, 0.4406], abs=1e-4)
    assert topk_mask(scores, 0.5).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize(("threshold", "expected", "tail"), [(0.29015, 0.2145, 0.5), (0.54835, 0.5181, 0.625)])
def test_golden_cett(threshold, expected, tail):
    h = silu(GATE) * UP
    off = h.abs() * DOWN.norm(dim=0) <= threshold
    assert off.float().mean() == tail
    assert cett(DOWN, h, off) == pytest.approx(expected, abs=5e-5)


@given(st.lists(st.floats(0.01, 100), min_size=5, max_size=5))
@settings(deadline=None)
def test_prompt_scores_do_not_see_the_size_of_a_token(sizes):
    z = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real = torch.tensor([[False, True, True, True, True], [True] * 5])
    z[0, 0] = torch.nan  # padding may hold anything
    scaled = z * torch.tensor(sizes, dtype=torch.float64)[None, :, None]
    assert torch.allclose(prompt_scores(scaled, real), prompt_scores(z, real))


def test_cett_is_monotone_and_1_when_all_is_off():
    h = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    curve = cett_curve(DOWN, h, h.abs() * DOWN.norm(dim=0))
    assert curve[0] == 0
    assert (curve.diff() >= 0).all()
    assert curve[-1] == pytest.approx(1)


@given(
    st.lists(st.tuples(st.floats(1, 100), st.floats(0.2, 5), st.floats(0, 0.9)), min_size=1, max_size=5),
    st.floats(0, 1),
)
def test_equal_cett_averages_to_the_target(sites, target):
    # Curves of ReLU layers: nothing is lost until all that is 0 anyway is dropped.
    curves = torch.stack([((LEVELS - zeros).clamp(min=0) / (1 - zeros)) ** power for _, power, zeros in sites])
    sizes = torch.tensor([size for size, _, _ in sites], dtype=torch.float64)
    levels, value = equal_cett(curves, sizes, target)
    assert float((levels * sizes).sum() / sizes.sum()) == pytest.approx(target, abs=1e-6)
    assert 0 <= value <= 1 + 1e-9
    if float((torch.tensor([zeros for _, _, zeros in sites]) * sizes).sum() / sizes.sum()) > target + 1 / 40:
        assert value < 1e-9, "what is 0 anyway goes first"


def test_reduced_rank_regression_of_full_rank_is_ridge_regression():
    random_ = torch.Generator().manual_seed(0)
    x, y = (torch.randn(200, size, generator=random_, dtype=torch.float64) + 1 for size in (6, 9))
    A, B, b = reduced_rank_regression(x, y, 6, ridge=1e-2)
    X, Y = (np.asarray(values - values.mean(dim=0)) for values in (x, y))
    gram = X.T @ X
    full = np.linalg.solve(gram + 1e-2 * np.trace(gram) / 6 * np.eye(6), X.T @ Y)
    assert np.allclose(x.numpy() @ (B @ A).T.numpy() + b.numpy(), X @ full + y.mean(dim=0).numpy(), atol=1e-5)


def test_reduced_rank_regression_finds_a_low_rank_map_and_no_other_is_better():
    random_ = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=random_) * torch.tensor([5, 4, 3, 3, 2, 2])
    low = torch.randn(9, 2, generator=random_) @ torch.randn(2, 6, generator=random_)
    A, B, b = reduced_rank_regression(x, x @ low.T + 3, 2, ridge=1e-2)
    assert A.shape == (2, 6)
    assert B.shape == (9, 2)
    assert float((x @ A.T @ B.T + b - x @ low.T - 3).norm() / (x @ low.T).norm()) < 0.02
    y = x @ torch.randn(9, 6, generator=random_).T
    A, B, b = reduced_rank_regression(x, y, 2, ridge=1e-2)
    X, Y = (values - values.mean(dim=0) for values in (x, y))
    ours = float((X @ A.T @ B.T - Y).square().sum())
    best = float((torch.linalg.svd(Y).S[2:] ** 2).sum())  # no rank 2 prediction of Y can do better (Eckart-Young)
    assert ours == pytest.approx(best, rel=0.02)


def test_recall_counts_the_oracles_units():
    kept = torch.tensor([[True, True, False, False], [True, False, True, False]])
    oracle = torch.tensor([[True, False, True, False], [True, False, True, False]])
    assert recall_of(kept, oracle) == 0.75
    assert recall_of(kept, torch.zeros_like(kept)) == 1
