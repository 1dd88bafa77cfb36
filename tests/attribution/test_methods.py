"""Every metric: numbers computed by hand, agreement with captum, invariances, and one shared contract."""

import math
from functools import cache

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradientXActivation, LayerIntegratedGradients
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from sparseact.attribution import (
    METRICS,
    MetricOptions,
    Scores,
    attribute,
    attribute_in_one_pass,
    make_metric,
    path_gradients,
    score_sites,
)
from sparseact.attribution import path as path_module
from sparseact.attribution.methods.corrected_gxo import CorrectedGxO
from sparseact.attribution.own_position import own_position_attention
from sparseact.errors import InputError
from sparseact.masked.decoding import prefill, teacher_force
from sparseact.masked.selectors import ranks, topk_mask
from sparseact.sites import find_sites, on_units
from sparseact.testing import DISTINCT, float64_model, tiny_model, tiny_tokenizer

PROMPT, STEPS = 7, 4


def tokens(length, seed=0):
    return torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(seed))


def score(name, x, gradient, **options):
    return make_metric(name, MetricOptions(**options)).score(torch.as_tensor(x), torch.as_tensor(gradient))


# Golden numbers

NEURONS = torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
NEURON_GRADIENT = torch.tensor([[2.0], [1.0], [-2.0], [4.0]])  # its norm is 5; g x = 2, -2, -6, 2


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("magnitude", {}, [1, 2, 3, 0.5]),
        ("gradient", {}, [-2, -1, 2, -4]),
        ("gradient-abs", {}, [2, 1, 2, 4]),
        ("gxo", {}, [-2, 2, 6, -2]),
        ("ig", {}, [-2, 2, 6, -2]),
        ("snip", {}, [2, 2, 6, 2]),
        ("fisher", {}, [4, 4, 36, 4]),
        ("corrected-gxo", {}, [0.5, 7, 13.5, -0.75]),  # + 0.5 * 5 |x|
        ("corrected-gxo", {"correction": "auto"}, [13, 32, 51, 5.5]),  # c = 6 / sqrt(4 neurons) = 3
        ("corrected-gxo", {"correction": 0.0}, [-2, 2, 6, -2]),
        ("corrected-gxo", {"heads_formula": "theorem"}, [0.5, 7, 13.5, -0.75]),
    ],
)
def test_golden_neurons(name, options, expected):
    assert score(name, NEURONS, NEURON_GRADIENT, **options).tolist() == pytest.approx(expected)


HEADS = torch.tensor([[3.0, 4.0], [-2.0, 0.0]])  # norms 5 and 2
HEAD_GRADIENT = torch.tensor([[6.0, 0.0], [8.0, 0.0]])  # means 3 and 4, of norm 5; all four of norm 10
AUTO = 1 / math.sqrt(2)  # 1 / sqrt(2 heads)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("magnitude", {}, [5, 2]),
        ("gradient", {}, [-3, -4]),
        ("gxo", {}, [-9, 8]),  # g x = (18, 0) and (-16, 0), their means
        ("ig", {}, [-9, 8]),
        ("snip", {}, [9, 8]),
        ("fisher", {}, [81, 64]),
        ("corrected-gxo", {}, [-9 + 0.5 * 5 * 5, 8 + 0.5 * 2 * 5]),
        ("corrected-gxo", {"heads_formula": "theorem"}, [-18 + 0.5 * 5 * 10, 16 + 0.5 * 2 * 10]),
        ("corrected-gxo", {"correction": "auto"}, [-9 + AUTO * 5 * 5, 8 + AUTO * 2 * 5]),
        ("corrected-gxo", {"correction": "auto", "heads_formula": "theorem"}, [-18 + AUTO * 50, 16 + AUTO * 20]),
    ],
)
def test_golden_heads(name, options, expected):
    assert score(name, HEADS, HEAD_GRADIENT, **options).tolist() == pytest.approx(expected)


def test_the_absolute_gradient_of_a_head_does_not_cancel():
    gradient = torch.tensor([[1.0, -3.0]])
    assert score("gradient-abs", torch.ones(1, 2), gradient).tolist() == [2]
    assert score("gradient", torch.ones(1, 2), gradient).tolist() == [1]


def test_layers_and_tokens_have_norms_of_their_own():
    """The corrective term takes ||g|| over the units of one token, not over tokens or the batch."""
    x = torch.stack([NEURONS, NEURONS])
    gradient = torch.stack([NEURON_GRADIENT, 10 * NEURON_GRADIENT])
    both = score("corrected-gxo", x, gradient)
    torch.testing.assert_close(both[1], 10 * both[0])


# A net of two layers, by hand and by captum


class TwoLayers(nn.Module):
    """Units relu(W1 i) = (1, 2, 2); logits (ln 3, 0), so the probabilities are 3/4 and 1/4."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
        self.up.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        self.down.weight.data = torch.tensor([[math.log(3), 1.0, -1.0], [0.0, 0.0, 0.0]])
        self.act = nn.ReLU()

    def forward(self, inputs):
        return cross_entropy(self.down(self.act(self.up(inputs))), torch.zeros(len(inputs)).long(), reduction="none")


INPUT = torch.tensor([[1.0, 2.0]])
LOSS_SLOPE = -0.25  # of logit 0: p - 1


def test_a_net_of_two_layers_by_hand():
    net = TwoLayers()
    units = net.act(net.up(INPUT)).detach().requires_grad_()
    loss = cross_entropy(net.down(units), torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(4 / 3))
    (gradient,) = torch.autograd.grad(loss, units)
    assert gradient[0].tolist() == pytest.approx([LOSS_SLOPE * math.log(3), LOSS_SLOPE, -LOSS_SLOPE])
    found = score("gxo", units[0, :, None].detach(), gradient[0, :, None])
    assert found.tolist() == pytest.approx([0.25 * math.log(3), 0.5, -0.5])

    by_captum = LayerGradientXActivation(net, net.act).attribute(INPUT)
    assert found.tolist() == pytest.approx((-by_captum[0]).tolist())


def test_integrated_gradients_of_a_net_of_two_layers():
    """At alpha the logits are (alpha ln 3, 0), so 1 - p = 1 / (3^alpha + 1): at 1/2 and 1, for two steps."""
    slope = -(1 / (math.sqrt(3) + 1) + 1 / 4) / 2
    units, path = torch.tensor([[1.0], [2.0], [2.0]]), slope * torch.tensor([[math.log(3)], [1.0], [-1.0]])
    net = TwoLayers()
    by_captum = LayerIntegratedGradients(net, net.act).attribute(INPUT, n_steps=2, method="riemann_right")
    assert score("ig", units, path).tolist() == pytest.approx((-by_captum[0]).tolist())


# A tiny language model, by captum: only the own position's units vary


@pytest.fixture(scope="module")
def llama():
    return float64_model(tiny_model("llama"))


def loss_of_units(model, site, prompt, label, step):
    """Loss of one step as a function of the site's units [n, units * unit_size] at that step's position.

    An ordinary forward pass: by causality the last position changes no other one.
    """
    read = torch.cat([prompt, label[:, :step]], dim=1)

    def loss(units):
        def put(_, x):
            rest = x[:, :-1].expand(len(units), -1, -1, -1)
            return torch.cat([rest, site.split(units)[:, None]], dim=1)

        with on_units(model, [site], put):
            logits = model(read.expand(len(units), -1)).logits[:, -1]
        return cross_entropy(logits, label[:, step].expand(len(units)), reduction="none")

    return loss


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("index", [0, 1, 3])  # neurons and heads of the first layer, heads of the second
def test_captum_agrees_on_a_language_model(llama, index, step):
    sites = find_sites(llama)
    site = sites[index]
    prompt, label = tokens(PROMPT), tokens(STEPS, seed=1)
    prefix = prefill(llama, prompt)
    found = attribute_in_one_pass(llama, sites, prefix, label)
    path = path_gradients(llama, [site], prefix, label, found.keys_values, steps=10)
    units = found.x[site][0, step]
    loss = loss_of_units(llama, site, prompt, label, step)

    def per_unit(attributions):
        return -site.split(attributions[0]).mean(-1)  # our scores: higher is kept, a head's mean

    flat = units.reshape(1, -1).requires_grad_()
    gxo = per_unit(InputXGradient(loss).attribute(flat))
    torch.testing.assert_close(score("gxo", units, found.gradient[site][0, step]), gxo, rtol=1e-9, atol=1e-12)
    # captum's steps are float32 numbers
    ig = per_unit(IntegratedGradients(loss).attribute(flat, n_steps=10, method="riemann_right"))
    torch.testing.assert_close(score("ig", units, path[site][0, step]), ig.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", DISTINCT)
def test_one_step_of_integrated_gradients_is_gxo(family):
    model = float64_model(tiny_model(family))
    sites = find_sites(model)
    prefix, label = prefill(model, tokens(PROMPT)), tokens(STEPS, seed=1)
    found = attribute_in_one_pass(model, sites, prefix, label)
    path = path_gradients(model, sites, prefix, label, found.keys_values, steps=1)
    for site in sites:
        torch.testing.assert_close(path[site], found.gradient[site], rtol=1e-9, atol=1e-12)


def completeness_error(model, site, prefix, label, found, steps):
    """Largest |sum of the attributions - loss that the site adds|, and that loss's largest size."""
    path = path_gradients(model, [site], prefix, label, found.keys_values, steps=steps)
    attributed = (path[site] * found.x[site]).sum((-1, -2))[0]
    with (
        torch.no_grad(),
        own_position_attention(model, others=found.keys_values),
        on_units(model, [site], lambda _, x: x * 0),
    ):
        off = teacher_force(model, prefix, label)
    added = cross_entropy(found.logits[0], label[0], reduction="none") - cross_entropy(
        off[0], label[0], reduction="none"
    )
    return (attributed - added).abs().max().item(), added.abs().max().item()


@pytest.mark.parametrize("family", ["llama", "mobillama", "phi", "gemma2", "gemma3", "opt", "gpt2"])
def test_integrated_gradients_are_complete(family):
    """A right Riemann sum misses the loss by O(1/steps): 16 times the steps, about a 16th of the error."""
    model = tiny_model(family)
    for module in model.modules():
        if type(module).__name__.startswith("Gemma") and hasattr(module, "eps"):
            # Gemma norms what a block puts out, so along the path all of the change lies near 0, where
            # no sum of few steps sees it. A large epsilon spreads it out.
            module.eps = 1.0
    float64_model(model)
    prefix, label = prefill(model, tokens(PROMPT)), tokens(STEPS, seed=1)
    sites = find_sites(model)
    found = attribute_in_one_pass(model, sites, prefix, label)
    for site in sites[:3]:
        coarse, size = completeness_error(model, site, prefix, label, found, 32)
        fine, _ = completeness_error(model, site, prefix, label, found, 512)
        assert fine < 0.02 * size
        assert fine < coarse / 4  # kinks of a ReLU fall between the steps


def test_steps_that_do_not_fit_at_once_change_nothing(llama, monkeypatch):
    sites = find_sites(llama)[:2]
    prefix, label = prefill(llama, tokens(PROMPT)), tokens(STEPS, seed=1)
    keys_values = attribute_in_one_pass(llama, sites, prefix, label).keys_values
    done = []
    whole = path_gradients(llama, sites, prefix, label, keys_values, steps=5, after_site=lambda: done.append(1))
    assert len(done) == len(sites)
    monkeypatch.setattr(path_module, "LOGITS_AT_ONCE", 2 * STEPS * 64)
    parts = path_gradients(llama, sites, prefix, label, keys_values, steps=5)
    for site in sites:
        torch.testing.assert_close(parts[site], whole[site], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["gxo", "ig"])
def test_the_unit_with_the_highest_score_is_missed_most(llama, name):
    """Higher is kept: switching the best neuron off costs more loss than switching the worst one off."""
    site = find_sites(llama, "mlp")[-1]
    prefix, label = prefill(llama, tokens(PROMPT)), tokens(STEPS, seed=1)
    found = attribute_in_one_pass(llama, [site], prefix, label)
    gradient = found.gradient
    if name == "ig":
        gradient = path_gradients(llama, [site], prefix, label, found.keys_values, steps=20)
    scores = score_sites(make_metric(name), found.x, gradient)[site]

    def loss_without(unit):
        off = torch.ones(1, STEPS, site.units, 1).scatter_(2, unit[..., None, None], 0.0)
        with torch.no_grad(), on_units(llama, [site], lambda _, x: x * off):
            logits = teacher_force(llama, prefix, label)
        return cross_entropy(logits[0], label[0], reduction="none")

    assert (loss_without(scores.argmax(-1)) > loss_without(scores.argmin(-1))).all()


# Invariances

WHOLE = st.integers(-8, 8).map(float)  # small whole numbers: products and sums are exact


@st.composite
def outputs_and_gradients(draw, max_size=3):
    units, size = draw(st.integers(1, 8)), draw(st.integers(1, max_size))
    rows = st.lists(WHOLE, min_size=units * size, max_size=units * size)
    return tuple(torch.tensor(draw(rows), dtype=torch.float64).reshape(units, size) for _ in range(2))


DETERMINED = [name for name in METRICS if name != "random"]


@given(outputs_and_gradients())
def test_fisher_ranks_like_snip(pair):
    x, gradient = pair
    assert torch.equal(ranks(score("fisher", x, gradient)), ranks(score("snip", x, gradient)))


@given(outputs_and_gradients(max_size=1), st.sampled_from([0.5, "auto"]))
def test_for_neurons_both_formulas_are_one(pair, correction):
    released, theorem = (CorrectedGxO(correction, formula).score(*pair) for formula in ("released", "theorem"))
    torch.testing.assert_close(released, theorem)


@given(outputs_and_gradients())
def test_without_correction_it_is_gxo(pair):
    assert torch.equal(score("corrected-gxo", *pair, correction=0.0), score("gxo", *pair))


@given(outputs_and_gradients())
def test_a_huge_correction_ranks_by_magnitude(pair):
    x, gradient = pair
    gradient = gradient + 10  # its norm is not 0
    corrected = score("corrected-gxo", x, gradient, correction=1e9)
    magnitude = score("magnitude", x, gradient)
    order = magnitude.argsort(descending=True)
    assert (corrected[order].diff() <= 1e-6 * corrected.abs().max()).all()


@given(outputs_and_gradients())
def test_scaling_the_output_against_the_gradient_leaves_their_product(pair):
    x, gradient = pair
    for name in ("gxo", "ig", "snip", "fisher"):
        assert torch.equal(score(name, 4 * x, gradient / 4), score(name, x, gradient))
    torch.testing.assert_close(score("corrected-gxo", 4 * x, gradient / 4), score("corrected-gxo", x, gradient))


@given(outputs_and_gradients())
def test_a_unit_whose_output_and_gradient_change_sign_scores_the_same(pair):
    x, gradient = pair
    for name in DETERMINED:
        if name != "gradient":  # signed, as published
            torch.testing.assert_close(score(name, -x, -gradient), score(name, x, gradient))
    torch.testing.assert_close(score("gradient", -x, -gradient), -score("gradient", x, gradient))


@given(outputs_and_gradients(), st.randoms(use_true_random=False))
def test_the_order_of_units_does_not_matter(pair, random):
    x, gradient = pair
    order = list(range(len(x)))
    random.shuffle(order)
    for name in DETERMINED:
        torch.testing.assert_close(score(name, x[order], gradient[order]), score(name, x, gradient)[order])


@given(outputs_and_gradients())
def test_a_unit_that_is_silent_scores_nothing(pair):
    x, gradient = pair
    x[0] = 0
    for name in ("magnitude", "gxo", "ig", "snip", "fisher", "corrected-gxo"):
        assert score(name, x, gradient)[0] == 0


# The contract of every metric


@cache
def attribution(family):
    """x, own gradients and path gradients of two tokens' worth of label, once per family."""
    model = tiny_model(family)
    sites = find_sites(model)
    prefix, label = prefill(model, tokens(PROMPT)), tokens(2, seed=1)
    found = attribute_in_one_pass(model, sites, prefix, label)
    path = path_gradients(model, sites, prefix, label, found.keys_values, steps=2)
    return found.x, {"none": found.gradient, "own": found.gradient, "path": path}


@pytest.fixture(params=METRICS)
def name(request):
    return request.param


@pytest.mark.parametrize("family", DISTINCT)
def test_contract_on_every_family(name, family):
    x, gradients = attribution(family)
    metric = make_metric(name)
    assert metric.name == name
    scores = score_sites(metric, x, gradients[metric.reads])
    again = score_sites(make_metric(name), x, gradients[metric.reads])
    assert list(scores) == list(x)
    for site, found in scores.items():
        assert found.shape == (1, 2, site.units)
        assert found.dtype == torch.float32
        assert torch.isfinite(found).all()
        assert found.unique().numel() > 1  # it tells units apart
        assert torch.equal(found, again[site])  # the same again
        mask = topk_mask(found, 0.5)
        assert found[mask].reshape(2, -1).amin(-1).ge(found[~mask].reshape(2, -1).amax(-1)).all()  # higher is kept


def test_contract_reads_only_what_it_says(name):
    """A metric that reads no gradient is label-free: another gradient changes nothing."""
    metric, other = make_metric(name), make_metric(name)
    x, gradient = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    same = torch.equal(metric.score(x, gradient), other.score(x, -2 * gradient + 1))
    assert same == (metric.reads == "none")


TEXTS = ["Why is the sky blue?", "Hi", "Who wrote Hamlet, and when?"]
OPTIONS = {"max_new_tokens": 4, "ig_steps": 3}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.mark.parametrize("units", ["mlp", "heads", "both"])
def test_contract_of_attribute(name, units, llama, tokenizer, tmp_path):
    scores = attribute(llama, tokenizer, TEXTS[0], metric=name, units=units, **OPTIONS)
    kinds = {"mlp": ["mlp"], "heads": ["heads"], "both": ["mlp", "heads"]}[units]
    assert list(scores.values) == [f"{kind}.{layer}" for layer in range(3) for kind in kinds]
    again = attribute(llama, tokenizer, TEXTS[0], metric=name, units=units, **OPTIONS)
    scores.save(tmp_path)
    loaded = Scores.load(tmp_path)
    assert loaded.meta == scores.meta
    assert loaded.meta["metric"] == name
    assert torch.equal(loaded.tokens, scores.tokens)
    assert torch.equal(loaded.prompt_tokens, scores.prompt_tokens)
    assert loaded.values.keys() == scores.values.keys()
    for key, value in scores.values.items():
        assert value.shape == (len(scores.tokens), 48 if key.startswith("mlp") else 4)
        assert torch.equal(loaded[key], value)
        assert torch.equal(again[key], value)


# The control, and bad input


def test_the_control_is_reproducible_and_its_seed_matters():
    x = torch.randn(2, 3, 50, 4)
    one, same, other = (score("random", x, x, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert ((one >= 0) & (one < 1)).all()
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    score("random", x, x)
    assert torch.equal(torch.random.get_rng_state(), before)  # it has a generator of its own


def test_the_control_draws_anew_for_every_site():
    x, gradients = attribution("llama")
    scores = [value for site, value in score_sites(make_metric("random"), x, gradients["none"]).items()]
    assert not torch.equal(scores[0], scores[2])


def test_nan_among_the_scores_is_refused(name):
    x, gradients = attribution("llama")
    metric = make_metric(name)
    gradient = dict(gradients[metric.reads])
    site = list(x)[2]
    broken = x[site].clone()
    broken[0, 0, 0, 0] = float("nan")
    gradient[site] = broken
    if name == "random":
        score_sites(metric, {**x, site: broken}, gradient)  # it reads nothing
        return
    with pytest.raises(InputError, match=rf"{name}: NaN among the scores of model\.layers\.1\.mlp\.down_proj"):
        score_sites(metric, {**x, site: broken}, gradient)


@pytest.mark.parametrize("correction", [-0.5, float("nan"), -math.inf])
def test_a_correction_below_0_is_refused(correction):
    with pytest.raises(InputError, match=r"correction: .* is not a number of at least 0, or auto"):
        make_metric("corrected-gxo", MetricOptions(correction=correction))


def test_unknown_names_are_refused_with_a_hint():
    with pytest.raises(InputError, match=r"metrics: unknown metric 'gox'\. Did you mean gxo\?"):
        make_metric("gox")
    with pytest.raises(InputError, match=r"heads_formula: unknown formula 'theory'.*Valid: released, theorem"):
        make_metric("corrected-gxo", MetricOptions(heads_formula="theory"))
