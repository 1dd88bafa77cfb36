"""Masks, gradients, penalties, schedules, controllers, routers, block FFNs: numbers by hand, slow twins, properties."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import linear, silu

from sparseact.errors import InputError
from sparseact.training.block_ffn import BlockSparseFFN
from sparseact.training.controller import Controller, RatioDriven, additive, additive_bias, multiplicative
from sparseact.training.gradients import mask_only, soft, straight_through
from sparseact.training.mask_metrics import (
    chunk_density,
    dead_rates,
    density,
    expected_chunk_density,
    frequencies,
    reuse,
)
from sparseact.training.masks import budget_mask
from sparseact.training.penalties import chunk, l1, locality, smooth_l0
from sparseact.training.routers import ReLUNormRouter, SigmoidBiasRouter, TopKRouter
from sparseact.training.schedules import Geometric, StagedSine


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- masks


@pytest.mark.parametrize(("axis", "dim"), [("neuron", -1), ("token", -2)])
def test_a_budget_is_met_exactly_along_its_axis(axis, dim):
    x = rand(2, 12, 20).round(decimals=1)  # with ties
    on = budget_mask(x, 5, axis)
    assert (on.sum(dim=dim) == 5).all()
    assert (x.masked_fill(~on, math.inf).amin(dim=dim) >= x.masked_fill(on, -math.inf).amax(dim=dim)).all()


def test_the_budget_of_a_batch_is_of_all_its_entries():
    x = rand(2, 12, 20)
    on = budget_mask(x, 100, "batch")
    assert int(on.sum()) == 100
    assert x[on].min() > x[~on].max()
    assert on.sum(dim=-1).unique().numel() > 1  # tokens may have more or fewer


def test_blocks_are_on_as_a_whole_those_with_the_most_energy():
    x = torch.tensor([[3.0, 0, 0, 0, 1, 1, 2, 2]])
    assert budget_mask(x, 2, "block", block=2).tolist() == [[True, True, False, False, False, False, True, True]]
    with pytest.raises(InputError, match=r"^block: 8 units"):
        budget_mask(x, 1, "block", block=3)


def test_the_statistical_mask_is_near_its_budget_on_normal_scores():
    on = budget_mask(rand(50, 1000), 80, method="statistical")
    assert density(on) == pytest.approx(0.08, rel=0.05)


def test_a_budget_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"^k: 21"):
        budget_mask(rand(3, 20), 21)
    with pytest.raises(InputError, match=r"^axis: unknown value 'row'"):
        budget_mask(rand(3, 20), 2, "row")


# --- gradients


def test_three_gradients_through_one_mask():
    on = torch.tensor([True, False, True])
    for function, expected in ((mask_only, [1.0, 0, 1]), (straight_through, [1.0, 1, 1])):
        x = torch.tensor([2.0, 0.1, -3.0], requires_grad=True)
        y = function(x, on)
        assert y.tolist() == [2, 0, -3]
        y.sum().backward()
        assert x.grad.tolist() == expected
    x, theta = torch.tensor([2.0, 0.1, -3.0], requires_grad=True), torch.tensor(0.5, requires_grad=True)
    y = soft(x, theta)
    assert y.tolist() == [1.5, 0, -2.5]
    (y * torch.tensor([1.0, 1, -1])).sum().backward()
    assert (x.grad.tolist(), theta.grad.item()) == ([1, 0, -1], -2)


# --- penalties


def test_penalties_do_not_depend_on_tokens_and_width():
    h = rand(4, 8, 16)
    for penalty in (l1, lambda x: smooth_l0(x, 1e-2)):
        assert penalty(h) == pytest.approx(float(penalty(torch.cat([h, h], dim=-1))), rel=1e-5)
        assert penalty(h) == pytest.approx(float(penalty(torch.cat([h, h], dim=0))), rel=1e-5)
    assert l1(torch.tensor([[1.0, -3.0]])) == 2


def test_the_slope_of_smooth_l0_is_highest_at_the_root_of_a_third_of_eps():
    eps, peak = 1e-7, (1e-7 / 3) ** 0.5  # 1.8e-4
    at = torch.tensor([0.5 * peak, peak, 2 * peak], dtype=torch.float64, requires_grad=True)
    (3 * smooth_l0(at, eps)).backward()
    assert at.grad[1] > at.grad[0]
    assert at.grad[1] > at.grad[2]
    assert at.grad[1].item() == pytest.approx(2 * peak * eps / (peak**2 + eps) ** 2)


def test_the_chunk_penalty_is_how_likely_a_unit_is_on_anywhere():
    p = torch.tensor([[0.5, 0.0], [0.5, 0.2], [0.1, 0.0]])
    assert chunk(p, 2).item() == pytest.approx((0.75 + 0.2 + 0.1 + 0.0) / 4, abs=1e-4)
    assert chunk(p, 1).item() == pytest.approx(p.mean().item(), abs=1e-4)


def test_locality_is_a_cross_entropy_between_neighbours():
    scores, alpha = rand(2, 6, 5), 3.0
    slow = []
    for row in scores.tolist():
        for before, now in pairwise(row):
            for a, b in zip(before, now, strict=True):
                q, p = 1 / (1 + math.exp(-alpha * a)), 1 / (1 + math.exp(-alpha * b))
                slow.append(-(p * math.log(q) + (1 - p) * math.log(1 - q)))
    assert locality(scores, alpha).item() == pytest.approx(sum(slow) / len(slow), rel=1e-5)
    steady = scores[:, :1].sign().expand(-1, 6, -1)
    assert locality(steady, 100.0) < 1e-6
    last = torch.zeros(2, 5, dtype=torch.bool)
    last[0, 4] = True
    assert locality(scores, alpha, last).item() == pytest.approx(sum(slow[20:25]) / 5, rel=1e-5)


# --- schedules


def test_prosparse_s_schedule_has_its_published_values_at_its_stages():
    peaks = (5e-3, 5e-2, 5e-2, 2e-1, 2e-1)  # of its 7B model
    at = StagedSine(peaks, (6000, 10000, 12000, 16000, 16500))
    assert [at(t) for t in (0, 6000, 10000, 11000, 12000, 16000, 16500, 99999)] == pytest.approx(
        [5e-3, 5e-3, 5e-2, 5e-2, 5e-2, 2e-1, 2e-1, 2e-1]
    )
    assert at(8000) == pytest.approx((5e-3 + 5e-2) / 2)  # half-way
    values = [at(t) for t in range(0, 16500, 50)]
    assert values == sorted(values)
    assert at(10000) - at(9990) < 1e-5 < at(8005) - at(7995)  # flat at the ends of a stage
    with pytest.raises(InputError, match=r"^ends"):
        StagedSine((1.0, 2.0), (5, 5))


def test_a_geometric_schedule_falls_by_equal_factors():
    at = Geometric(1e-2, 1e-6, 100)
    assert [at(t) for t in (0, 25, 50, 100, 500)] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-6, 1e-6])


# --- controllers


@pytest.mark.parametrize("law", [multiplicative(0.5), additive(0.5)])
def test_a_threshold_is_steered_to_its_density(law):
    scores = rand(4000).abs()
    controller = Controller(torch.tensor(1.0), torch.tensor(0.3), law)
    for _ in range(60):
        controller.update((scores > controller.value).float().mean())
    assert (scores > controller.value).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert controller.state_dict()["value"] == controller.value


def test_the_bias_balances_a_skewed_router_and_sums_to_zero():
    skew = torch.linspace(0, 2, 16)
    x = torch.rand(4096, 16, generator=torch.Generator().manual_seed(0)) + skew
    controller = Controller(torch.zeros(16), torch.full((16,), 4 / 16), additive_bias(2e-3))
    load = budget_mask(x, 4).float().mean(dim=0)
    assert load.max() / load.mean() > 3
    for _ in range(2000):
        load = budget_mask(x + controller.value, 4).float().mean(dim=0)
        controller.update(load)
    assert load.max() / load.mean() < 1.2
    assert controller.value.sum().abs() < 1e-4


def test_a_ratio_driven_coefficient_pushes_harder_when_the_loss_rises():
    def run(losses):
        law = RatioDriven(warmup=20, every=10, cap=4.0)
        controller = Controller(torch.tensor(0.05), torch.tensor(0.0), law)
        return [float(controller.update(torch.tensor(loss))) for loss in losses]

    steady = run([1.0] * 20 + [0.5] * 30)
    assert steady[:20] == pytest.approx([0.05] * 20)
    rising = run([1.0] * 10 + [1.1] * 60)
    assert rising[19] == pytest.approx(0.05)
    assert rising[24] == pytest.approx(0.05 * 1.05)  # half-way to 1.1 times
    assert rising[29] == pytest.approx(0.05 * 1.1)
    assert rising[39] == pytest.approx(0.05 * 1.1)  # equal losses leave it
    slightly = run([1.0] * 10 + [1.001] * 30)
    assert slightly[29] == pytest.approx(0.05 * 1.025)  # 1.025 at least
    assert max(run([2.0**i for i in range(200)])) == pytest.approx(0.2)  # the cap
    assert steady[-1] < 0.05


# --- routers and blocks


def ffn(router=None, seed=0):
    torch.manual_seed(seed)
    made = BlockSparseFFN(16, 6, 4, router or TopKRouter(16, 6, 2))
    with torch.no_grad():
        made.shift.normal_()
    return made


@pytest.mark.parametrize(
    "router", [lambda: TopKRouter(16, 6, 2), lambda: ReLUNormRouter(16, 6), lambda: SigmoidBiasRouter(16, 6, 2)]
)
def test_dense_and_gathered_execution_and_a_loop_over_blocks_are_equal(router):
    torch.manual_seed(1)
    made, x = ffn(router()), rand(7, 16)
    with torch.no_grad():
        dense, (gathered, read) = made(x), made.gathered(x)
        slow = torch.zeros_like(x)
        for token in range(7):
            for block in range(6):
                rows = slice(block * 4, block * 4 + 4)
                h = made.shift[rows]
                if made.last.on[token, block]:
                    h = silu(made.gate[rows] @ x[token]) * (made.up[rows] @ x[token]) * made.last.weights[token, block]
                slow[token] += made.down[:, rows] @ h
    torch.testing.assert_close(dense, slow, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gathered, slow, atol=1e-5, rtol=1e-5)
    assert read == 4 * int(made.last.on.any(dim=0).sum())


def test_another_order_of_the_neurons_leaves_the_output():
    gate, up, down, x = rand(24, 16), rand(24, 16, seed=1), rand(16, 24, seed=2), rand(5, 16, seed=3)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(4))
    made = BlockSparseFFN.from_linears(gate, up, down, order, 4, TopKRouter(16, 6, 6))
    torch.testing.assert_close(
        made(x).detach(), linear(silu(linear(x, gate)) * linear(x, up), down), atol=1e-4, rtol=1e-4
    )
    with pytest.raises(InputError, match=r"^order"):
        BlockSparseFFN.from_linears(gate, up, down, torch.zeros(24, dtype=torch.int64), 4, TopKRouter(16, 6, 6))


def test_a_hard_choice_still_teaches_the_router():
    made = ffn()
    made(rand(7, 16)).square().sum().backward()
    assert made.router.linear.weight.grad.abs().sum() > 0


def test_a_negative_gain_does_not_switch_a_block_off():
    router = ReLUNormRouter(16, 6)
    x = rand(9, 16)
    on = router(x).on
    with torch.no_grad():
        router.gain.neg_()
    assert torch.equal(router(x).on, on)


def test_the_balancing_bias_chooses_and_does_not_weigh():
    router, x = SigmoidBiasRouter(16, 6, 6), rand(9, 16)
    before = router(x).weights
    router.controller.value = torch.linspace(-1, 1, 6)
    torch.testing.assert_close(router(x).weights, before)  # all are on either way
    uneven = SigmoidBiasRouter(16, 6, 2, step=0.01)
    for _ in range(300):
        uneven.balance(uneven(rand(256, 16)).on)
    load = uneven(rand(256, 16)).on.float().mean(dim=0)
    assert load.max() / load.mean() < 1.3


# --- metrics


def test_metrics_of_a_mask_by_hand():
    on = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    assert density(on) == pytest.approx(9 / 20)
    assert chunk_density(on, 2) == pytest.approx(3 / 4)  # the fifth token fills no chunk
    assert chunk_density(on, 1) == density(on)
    assert reuse(on) == pytest.approx((0.5 + 1 + 0.5 + 0.5) / 4)
    assert dead_rates(on) == pytest.approx((1 / 4, 6 / 20))
    assert sum(dead_rates(on)) == pytest.approx(1 - density(on))
    assert frequencies(on).tolist() == pytest.approx([1, 0.4, 0.4, 0])
    assert expected_chunk_density(0.46, 8) == pytest.approx(1 - 0.54**8)


def test_independent_tokens_have_the_expected_chunk_density():
    on = torch.rand(4096, 64, generator=torch.Generator().manual_seed(0)) < 0.2
    assert chunk_density(on, 8) == pytest.approx(expected_chunk_density(0.2, 8), abs=0.01)
