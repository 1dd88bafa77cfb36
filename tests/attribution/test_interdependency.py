"""Interdependency of attribution scores: equal to a plain loop, right by hand, told as it is on the real SLM."""

import csv
import json
from collections import Counter
from contextlib import ExitStack
from functools import partial

import pytest
import torch
import transformers

import sparseact as sa
from sparseact.attribution import Attribution, Scores
from sparseact.attribution.interdependency import SPARSITY, _case, measure_interdependency
from sparseact.cli import main
from sparseact.errors import InputError
from sparseact.masked.selectors import topk_mask
from sparseact.sites import Site, find_sites

PROMPT = torch.tensor([5, 17, 3, 42, 8])
LABEL = torch.tensor([7, 30, 11])
STEPS = len(LABEL)
LEVELS = (0.25, 0.5, 0.75)


@pytest.fixture
def phi():
    """Parallel attention and MLP, biases, and norms that compute in float64."""
    torch.manual_seed(0)
    config = transformers.PhiConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4
    )
    model = transformers.PhiForCausalLM(config).double().eval()
    for parameter in model.parameters():  # far from linear, so that scores do depend on each other
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def scores(phi):
    random = torch.Generator().manual_seed(1)
    values = {
        site.name: torch.randn(STEPS, site.units, generator=random, dtype=torch.float64) for site in find_sites(phi)
    }
    return Scores(LABEL, PROMPT, values)


def slow_attributions(model, off):
    """(a [T, units], x [T, units, size], g) by site name; `off` says by (site name, step) which units are.

    One forward and one backward per token, over the whole text, with hooks and an attention of their own.
    """
    found = {}
    for step in range(STEPS):
        captured = {}
        with ExitStack() as hooks:
            for layer, block in enumerate(model.model.layers):
                for kind, linear, size in (("mlp", block.mlp.fc2, 1), ("heads", block.self_attn.dense, 8)):
                    hook = partial(mask_and_keep, captured, off, step, f"{kind}.{layer}", size)
                    hooks.callback(linear.register_forward_pre_hook(hook).remove)
            ids = torch.cat([PROMPT, LABEL[:step]])[None]
            loss = -model(input_ids=ids, use_cache=False).logits[0, -1].log_softmax(-1)[LABEL[step]]
        gradients = torch.autograd.grad(loss, list(captured.values()))
        for (name, outputs), gradient in zip(captured.items(), gradients, strict=True):
            x, g = outputs[0, -1].detach(), gradient[0, -1]
            found.setdefault(name, []).append((-(x * g).sum(-1), x, g))
    return {name: [torch.stack(part) for part in zip(*steps, strict=True)] for name, steps in found.items()}


def mask_and_keep(captured, off, step, name, size, _, args):
    x = args[0].unflatten(-1, (-1, size)).clone()
    for earlier in range(step + 1):
        x[0, len(PROMPT) - 1 + earlier, off.get((name, earlier), [])] = 0
    captured[name] = x
    return (x.flatten(-2),)


@pytest.mark.parametrize("kind", ["mlp", "heads"])
def test_changes_equal_those_of_a_loop_over_tokens(phi, scores, kind):
    changes = measure_interdependency(phi, scores, sparsity=LEVELS, cases=1).changes
    dense = slow_attributions(phi, {})
    for level in LEVELS:
        names = [f"{kind}.{layer}" for layer in range(3)]
        on = {name: topk_mask(scores[name], level) for name in names}
        off = {(name, step): (~on[name][step]).nonzero()[:, 0] for name in names for step in range(STEPS)}
        sparse = slow_attributions(phi, off)
        for layer, name in enumerate(names):
            before, after = dense[name][0][on[name]], sparse[name][0][on[name]]
            expected = float((after - before).abs().sum() / before.abs().sum())
            (found,) = [c for c in changes if (c.units, c.sparsity, c.layer) == (kind, level, layer)]
            assert found.change == pytest.approx(expected, rel=1e-9)
            assert expected > 0.01


@pytest.mark.parametrize("kind", ["mlp", "heads"])
def test_cases_equal_those_of_a_loop_over_tokens(phi, scores, kind):
    cases = [c for c in measure_interdependency(phi, scores, sparsity=(0.5,), cases=12).cases if c.units == kind]
    dense = slow_attributions(phi, {})
    assert len({(c.layer, c.step, c.unit) for c in cases}) > 6
    for case in cases:
        own, following = f"{kind}.{case.layer}", f"{kind}.{case.layer + 1}"
        without = slow_attributions(phi, {(own, case.step): [case.unit]})
        (a, x, g), (a_off, _, g_off) = (found[own][:3] for found in (dense, without))
        t = case.step
        error = without[following][0][t].sum() - dense[following][0][t].sum()
        assert case.error == pytest.approx(abs(float(error)), rel=1e-7, abs=1e-12)
        later = [
            abs(float(without[name][0][t].sum() - dense[name][0][t].sum()))
            for name in (f"{kind}.{layer}" for layer in range(case.layer + 1, len(phi.model.layers)))
        ]
        assert case.later_error == pytest.approx(max(later), rel=1e-7, abs=1e-12)
        assert case.lemma == pytest.approx(abs(float(a_off[t].sum() - a[t].sum())), rel=1e-7, abs=1e-12)
        assert case.theorem == pytest.approx(float(x[t, case.unit].norm() * g[t].norm()), rel=1e-9)
        assert case.gradient_change == pytest.approx(float((g_off[t] - g[t]).norm() / g[t].norm()), rel=1e-7)


def test_a_case_by_hand():
    own, following, last = (Site(layer, "mlp", "", "", 2, 1, 0.0) for layer in (0, 1, 2))

    def units(*rows):
        return torch.tensor(rows, dtype=torch.float64)[:, None, :, None]  # [runs, one step, units, 1]

    found = Attribution(
        x={own: units([3, 4], [3, 0]), following: units([1, 2], [1, 3]), last: units([1, 1], [2, 1])},
        gradient={own: units([1, -2], [1, -1]), following: units([5, 1], [4, 2]), last: units([3, 0], [6, 1])},
        logits=torch.empty(0),
        keys_values={},
    )
    case = _case(found, own, [following, last], row=1, step=0, unit=1)
    assert case.later_error == 10  # the last layer: -3, then -(12 + 1) = -13; the next one changes by 3
    assert _case(found, own, [following], row=1, step=0, unit=1).later_error == 3
    assert case.lemma == 8  # S: -(3 - 8) = 5, then -3
    assert case.error == 3  # next layer: -(5 + 2) = -7, then -(4 + 6) = -10
    assert case.theorem == pytest.approx(4 * 5**0.5)
    assert case.gradient_change == pytest.approx(1 / 5**0.5)


def test_switching_off_a_silent_neuron_changes_nothing(phi, scores):
    with torch.no_grad():
        for block in phi.model.layers:
            block.mlp.fc1.weight.zero_()
            block.mlp.fc1.bias.zero_()  # gelu(0) = 0
    found = measure_interdependency(phi, scores, sparsity=(0.5,), cases=8)
    assert {(c.error, c.later_error, c.lemma, c.theorem) for c in found.cases if c.units == "mlp"} == {(0.0,) * 4}
    assert {c.change for c in found.changes if c.units == "mlp"} == {0.0}
    assert found.summary()["mlp"]["bounds"]["inside_lemma"] == 1


def test_level_zero_changes_nothing(phi, scores):
    found = measure_interdependency(phi, scores, sparsity=(0.0,), cases=1)
    assert [c.change for c in found.changes] == pytest.approx([0.0] * 6, abs=1e-9)


def test_seed_draws_the_cases_and_the_model_is_left_alone(phi, scores):
    phi.train()
    first, again, other = (measure_interdependency(phi, scores, sparsity=(0.5,), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert [c.unit for c in first.cases] != [c.unit for c in other.cases]
    assert Counter(c.units for c in first.cases) == {"mlp": 128, "heads": 128}
    assert phi.training
    assert not any(module._forward_pre_hooks for module in phi.modules())


def test_only_the_units_that_were_scored(phi, scores):
    heads = Scores(LABEL, PROMPT, {name: value for name, value in scores.values.items() if name.startswith("heads")})
    found = measure_interdependency(phi, heads, sparsity=(0.5,), cases=2)
    assert {c.units for c in [*found.changes, *found.cases]} == {"heads"}


def test_one_layer_has_no_next(phi, scores):
    first = Scores(LABEL, PROMPT, {"mlp.0": scores["mlp.0"]})
    with pytest.raises(InputError, match="at least two layers"):
        measure_interdependency(phi, first)


def test_tables_on_disk_hold_every_row(phi, scores, tmp_path):
    found = measure_interdependency(phi, scores, sparsity=LEVELS, cases=5)
    found.save(tmp_path / "new")
    for name, rows in (("interdependency.csv", found.changes), ("interdependency-cases.csv", found.cases)):
        with (tmp_path / "new" / name).open(newline="") as file:
            read = list(csv.DictReader(file))
        assert [list(row.values()) for row in read] == [[str(v) for v in vars(row).values()] for row in rows]


@pytest.mark.smollm2
def test_on_smollm2_the_theorem_holds_because_it_is_loose(smollm2):
    model, tokenizer = smollm2
    scores = sa.attribute(model, tokenizer, "Why is the sky blue?", metric="gxo", max_new_tokens=4)
    found = measure_interdependency(model, scores, sparsity=(0.5,), cases=32)
    for kind, gradient_change in (("mlp", 1e-4), ("heads", 1e-2)):
        bounds = found.summary()[kind]["bounds"]
        assert bounds["inside_theorem"] > 0.9
        assert bounds["inside_lemma"] < 0.95
        assert bounds["median_error_over_theorem"] < 0.1
        assert bounds["median_gradient_change"] > gradient_change  # the theorem takes it for 0


def test_score_with_interdependency_writes_the_tables(tiny_gguf, tmp_path, capsys):
    options = ["--model", str(tiny_gguf), "--max-new-tokens", "2", "--out", str(tmp_path), "--json", "--no-chat"]
    assert main(["score", "--prompt", "Hi", "--interdependency", *options]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {"interdependency.csv", "interdependency-cases.csv"} < set(record["files"])
    assert set(record["files"]) <= {path.name for path in tmp_path.iterdir()}
    assert set(record["interdependency"]) == {"mlp", "heads"}
    assert list(record["interdependency"]["mlp"]["change"]) == [str(level) for level in SPARSITY]
