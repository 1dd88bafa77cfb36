"""Budgets: each hits its target exactly, and greedy is TEAL's within blocks at the costs that it states."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseact.calibration import greedy as greedy_module
from sparseact.calibration.budgets import LEVELS, _allocate, expected_loss, type_split, uniform, whole_heads
from sparseact.calibration.fit import read_text
from sparseact.calibration.greedy import STEP, Trial, _block_calls, greedy_in_blocks
from sparseact.calibration.sample import take_sample
from sparseact.masked.apply import run_sparse
from sparseact.masked.selectors import fit, quantile
from sparseact.policies import TEAL, Gate
from sparseact.policies.n_of_m import multiples
from sparseact.recipes.phases import Phases
from sparseact.recipes.selectors import Threshold, TopK
from sparseact.sites import Site, find_channels
from sparseact.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def text():
    return "".join(random.Random(0).choices("abcdefghijklmnop ABCDEFG", k=2100))


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def test_greedy_spends_every_blocks_budget_exactly_and_is_no_worse_than_uniform(model, tokenizer, text):
    windows = read_text(model, tokenizer, text).windows
    sites = find_channels(model)
    gates = [Gate(site, Threshold(0.0)) for site in sites]
    sample = take_sample(model, sites, windows)
    levels = greedy_in_blocks(model, windows, gates, sample, 0.43)
    assert all(0 <= level <= 1 for level in levels.values())
    calls = _block_calls(model, windows[:2], list(dict.fromkeys(site.block for site in sites)))
    better = 0
    for block, call in calls.items():
        own = [gate for gate in gates if gate.site.block == block]
        # True bytes: k and v have half the rows of q in this model.
        assert [gate.site.unit_bytes for gate in own][:2] == [128, 64]
        sizes = {gate.site: gate.site.units * gate.site.unit_bytes for gate in own}
        spent = sum(levels[site] * size for site, size in sizes.items())
        assert spent == pytest.approx(0.43 * sum(sizes.values()))
        with torch.no_grad():
            trial = Trial(model, own, sample, call)
            even, greedy = (trial.error(chosen) for chosen in (dict.fromkeys(sizes, 0.43), levels))
        assert 0 < greedy <= even
        better += greedy < 0.9 * even
    assert better  # a budget that gave uniform back would pass all of the above


def test_greedy_costs_what_its_documentation_says(model, tokenizer, text):
    runs = 0

    def count(*_):
        nonlocal runs
        runs += 1

    hook = model.model.layers[1].register_forward_hook(count)
    TEAL(0.1).calibrate(model, tokenizer, text)
    uniform_runs, runs = runs, 0
    TEAL(0.1, greedy=True).calibrate(model, tokenizer, text)
    hook.remove()
    # 7 linears; besides, the dense run, capturing its input, and both budgets once more.
    assert runs - uniform_runs == round(0.1 / STEP) * 7 + 4


def test_a_trial_of_a_block_is_what_the_sparse_model_does_to_it(model, tokenizer, text, monkeypatch):
    monkeypatch.setattr(greedy_module, "SINK_POSITIONS", 1)
    windows = read_text(model, tokenizer, text).windows[:2]
    sites = [site for site in find_channels(model) if site.layer == 0]
    gates = [Gate(site, Threshold(0.0)) for site in sites]
    sample = take_sample(model, sites, windows)
    levels = {site: 0.1 * index for index, site in enumerate(sites)}
    (call,) = _block_calls(model, windows, [sites[0].block]).values()
    fitted = [Gate(site, fit(Threshold(0.0), sample.x[site].abs(), levels[site])) for site in sites]
    outputs = []
    hook = model.model.layers[0].register_forward_hook(lambda *args: outputs.append(args[-1]))
    with torch.no_grad():
        error = Trial(model, gates, sample, call).error(levels)
        outputs.clear()
        model(windows)
        with run_sparse(model, fitted, Phases()):
            model(windows)
    hook.remove()
    dense, sparse = (output[0] if isinstance(output, tuple) else output for output in outputs)
    assert error == pytest.approx((sparse - dense)[:, 1:].flatten(0, 1).norm(dim=0).mean().item(), rel=1e-5)


shapes = st.lists(st.tuples(st.integers(8, 64), st.integers(1, 64)), min_size=8, max_size=20)
targets = st.floats(0.02, 0.95)


def gates_of(sizes) -> list[Gate]:
    names = ("q_proj", "o_proj", "gate_proj", "down_proj")
    return [
        Gate(Site(i, "channels", f"b.{i}", f"b.{i}.{names[i % 4]}", units, 1, float(cost)), TopK(0.0))
        for i, (units, cost) in enumerate(sizes)
    ]


def share(levels: dict[Site, float]) -> float:
    sizes = {site: site.units * site.unit_bytes for site in levels}
    return sum(levels[site] * sizes[site] for site in levels) / sum(sizes.values())


@given(sizes=shapes, target=targets)
def test_simple_budgets_hit_the_target_exactly(sizes, target):
    gates = gates_of(sizes)
    for levels in (uniform(gates, None, target), type_split(gates, None, target)):
        assert share(levels) == pytest.approx(target)
        assert all(-1e-9 <= level <= 1 + 1e-9 for level in levels.values())


def test_the_split_by_type_is_the_papers_while_it_can_be():
    levels = type_split(gates_of([(32, 4)] * 8), None, 0.5)
    assert [round(level, 6) for level in levels.values()] == [0.4, 0.6] * 4
    levels = type_split(gates_of([(32, 4)] * 8), None, 0.9)  # 1.2 * .9 would be more than all
    assert [round(level, 6) for level in levels.values()] == [0.8, 1.0] * 4


@given(
    count=st.integers(1, 12),
    bytes_=st.tuples(st.floats(1, 100), st.floats(1, 100)),
    target=targets,
    heads=st.floats(0.01, 1),
)
def test_neurons_make_up_for_heads_that_are_whole(count, bytes_, target, heads):
    sites = [Site(0, "heads", "b", "b.o", count, 8, bytes_[0]), Site(0, "mlp", "b", "b.down", 64, 1, bytes_[1])]
    on_heads, on_neurons = whole_heads([Gate(site, TopK(0.0)) for site in sites], None, target, heads=heads).values()
    off = on_heads * count
    assert off == pytest.approx(round(off))
    neurons = 64 * bytes_[1]
    wanted = target * (count * bytes_[0] + neurons)
    # Heads are off by half a head at most, and neurons have room for that or not.
    assert abs(off - max(heads * target * count, (wanted - neurons) / bytes_[0])) <= 0.5 + 1e-9
    assert on_neurons == pytest.approx(min(max((wanted - off * bytes_[0]) / neurons, 0), 1))
    assert abs(off * bytes_[0] + on_neurons * neurons - wanted) <= bytes_[0] / 2 + 1e-6


@given(sizes=shapes, target=targets, seed=st.integers(0, 100))
def test_equal_loss_per_byte_hits_the_target_exactly(sizes, target, seed):
    gates = gates_of(sizes)
    generator = torch.Generator().manual_seed(seed)
    steepness = torch.randn(len(gates), 1, generator=generator).exp()
    levels = _allocate([gate.site for gate in gates], steepness * LEVELS**3, target)
    assert share(levels) == pytest.approx(target, abs=1e-6)


@given(sizes=shapes, target=targets, m=st.sampled_from([4, 16, 32]))
def test_multiples_of_1_by_m_come_as_near_as_one_site_allows(sizes, target, m):
    levels = multiples(gates_of(sizes), target, m)
    assert all((level * m) % 1 == 0 for level in levels.values())
    total = sum(site.units * site.unit_bytes for site in levels)
    largest = max(site.units * site.unit_bytes for site in levels)
    assert abs(share(levels) - target) <= largest / m / total + 1e-9


def test_expected_loss_is_half_the_winsorised_mean_square_of_what_is_dropped():
    generator = torch.Generator().manual_seed(0)
    scores, attribution = torch.rand(200, 64, generator=generator), torch.randn(200, 64, generator=generator)
    expected = [0.0]
    for level in LEVELS[1:].tolist():
        change = (attribution * (scores <= quantile(scores, level))).sum(dim=-1).square()
        expected.append(float(change.clamp(max=change.quantile(0.99)).mean() / 2))
    slow = torch.tensor(expected).cummax(dim=0).values
    torch.testing.assert_close(expected_loss(scores, attribution), slow)
