"""Quality and density against slow references and numbers computed by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from sparseact.evaluation import achieved_sparsity, bleu, compare, published_sparsity, quality, second_choices
from sparseact.sites import Site, find_sites
from sparseact.testing import DISTINCT, tiny_model


def random_runs(batch=5, steps=4, vocabulary=11, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, steps, vocabulary, generator=random)
    dense = 3 * torch.randn(steps, vocabulary, generator=random)
    return logits, dense, dense.argmax(-1)


def slow(logits, dense, label, runner_up):
    """Agreement, nll, kl and share of runner-ups of one run, in plain loops."""

    def distribution(row):
        weights = [math.exp(value - max(row)) for value in row]
        return [weight / sum(weights) for weight in weights]

    rows = []
    for ours, theirs, token, second in zip(
        logits.tolist(), dense.tolist(), label.tolist(), runner_up.tolist(), strict=True
    ):
        q, p = distribution(ours), distribution(theirs)
        choice = int(np.argmax(ours))
        rows.append(
            [
                choice == token,
                -math.log(q[token]),
                sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True)),
                choice == second,
            ]
        )
    return np.mean(rows, axis=0)


# Quality


def test_golden_numbers():
    """One step, three tokens: p = (1/2, 1/4, 1/4) dense, q = (1/4, 1/2, 1/4) sparse."""
    dense = torch.tensor([[0.5, 0.25, 0.25]]).log()
    sparse = torch.tensor([[[0.25, 0.5, 0.25]]]).log()
    found = compare(sparse, dense, torch.tensor([0]), torch.tensor([1]))
    assert found.agreement.item() == 0
    assert found.runner_up.item() == 1
    assert found.nll.item() == pytest.approx(math.log(4))
    assert found.kl.item() == pytest.approx(0.25 * math.log(2))


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_a_slow_reference(seed):
    logits, dense, label = random_runs(seed=seed)
    runner_up = second_choices(dense, label)
    found = compare(logits, dense, label, runner_up)
    for row in range(len(logits)):
        expected = slow(logits[row], dense, label, runner_up)
        mine = [found.agreement[row], found.nll[row], found.kl[row], found.runner_up[row]]
        np.testing.assert_allclose(mine, expected, rtol=1e-5)


def test_the_dense_model_agrees_with_itself():
    _, dense, label = random_runs()
    found = compare(dense[None], dense, label, second_choices(dense, label))
    assert found.agreement.item() == 1
    assert found.kl.item() == 0
    assert found.runner_up.item() == 0


def test_kl_is_never_negative_and_grows_with_the_difference():
    logits, dense, label = random_runs(batch=20)
    parts = torch.stack([dense + share * (logits[0] - dense) for share in (0.0, 0.25, 0.5, 1.0)])
    kl = compare(parts, dense, label, label).kl
    assert (kl.diff() > 0).all()
    assert (compare(logits, dense, label, label).kl > 0).all()


@pytest.mark.parametrize("at_once", [1, 44, 100, 10_000])
def test_the_size_of_a_chunk_changes_nothing(monkeypatch, at_once):
    logits, dense, label = random_runs()
    whole = compare(logits, dense, label, label)
    monkeypatch.setattr(quality, "ROWS_AT_ONCE", at_once)
    parts = compare(logits, dense, label, label)
    for name in ("agreement", "nll", "kl", "runner_up"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))


def test_half_precision_is_compared_in_full():
    logits, dense, label = random_runs()
    found = compare(logits.bfloat16(), dense.bfloat16(), label, label)
    full = compare(logits.bfloat16().float(), dense.bfloat16().float(), label, label)
    assert torch.equal(found.kl, full.kl)
    assert found.kl.dtype == torch.float32


def test_second_choices():
    dense = torch.tensor([[0.0, 3.0, 2.0, -1.0], [5.0, 5.0, 0.0, 0.0], [-9.0, -8.0, -7.0, -6.0]])
    assert second_choices(dense, torch.tensor([1, 0, 3])).tolist() == [2, 1, 2]
    assert second_choices(dense, torch.tensor([2, 1, 0])).tolist() == [1, 0, 3]  # the label need not be the first


# Text


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("The sky is blue because of scattering.", "The sky is blue because light is scattered."),
        ("Yes it is.", "Yes it was, once."),
        ("nothing in common", "Because of Rayleigh scattering"),
        ("", "The sky is blue."),
    ],
)
def test_bleu_is_sacrebleus(text, reference):
    assert bleu(text, reference) == pytest.approx(BLEU(effective_order=True).sentence_score(text, [reference]).score)
    plain = BLEU(effective_order=False).corpus_score([text], [[reference]]).score
    assert bleu(text, reference, effective_order=False) == pytest.approx(plain)


def test_bleu_of_an_exact_match():
    assert bleu("Yes.", "Yes.") == 100
    assert bleu("", "") == 100
    assert bleu("Yes.", "Yes.", effective_order=False) == 0  # fewer than 4 tokens: the released code's number
    assert bleu("It is blue today.", "It is blue today.", effective_order=False) == pytest.approx(100)


# Density


def site(kind, units, unit_bytes, layer=0):
    return Site(layer, kind, "block", "block.linear", units, 1, unit_bytes)


def test_achieved_sparsity_weighs_by_bytes():
    mlp, heads = site("mlp", 10, 3.0), site("heads", 2, 35.0)  # 30 and 70 bytes
    off = {mlp: torch.tensor([0.5, 1.0]), heads: torch.tensor([0.0, 1.0])}
    torch.testing.assert_close(achieved_sparsity(off), torch.tensor([0.15, 1.0]))


def test_published_sparsity_counts_heads_a_third():
    off = {
        site("mlp", 10, 3.0): torch.tensor(0.9),
        site("mlp", 10, 3.0, layer=1): torch.tensor(0.6),
        site("heads", 2, 35.0): torch.tensor(0.3),
    }
    assert published_sparsity(off).item() == pytest.approx(0.75 * 2 / 3 + 0.3 / 3)
    neurons = {key: value for key, value in off.items() if key.kind == "mlp"}
    assert published_sparsity(neurons).item() == pytest.approx(0.75)


@pytest.mark.parametrize("family", DISTINCT)
def test_achieved_sparsity_is_the_share_of_weights_that_no_unit_reads(family):
    """Brute force: mark every weight that a unit stands for, then count the marks of those that are off."""
    model = tiny_model(family)
    sites = find_sites(model)
    random = torch.Generator().manual_seed(0)
    off = {s: torch.rand(s.units, generator=random) < 0.4 for s in sites}
    if family == "mobillama":  # one MLP: a weight is unread only where all its layers agree, so give them one mask
        for s in sites:
            off[s] = off[sites[0]] if s.kind == "mlp" else off[s]
    total, unread = set(), set()
    for s in sites:
        for unit in range(s.units):
            marks = weights_of(model, family, s, unit)
            total |= marks
            unread |= marks if off[s][unit] else set()
    share = achieved_sparsity({s: mask.float().mean() for s, mask in off.items()}).item()
    assert share == pytest.approx(len(unread) / len(total), rel=1e-5)


FUSED_INPUTS = {"phi3": "self_attn.qkv_proj", "gpt2": "attn.c_attn"}


def weights_of(model, family, s, unit):
    """(parameter, row, column) of every weight that is used for this unit alone, K and V aside."""
    block = model.get_submodule(s.block)
    conv = family == "gpt2"

    def marks(name, *, rows=(), columns=()):
        weight = block.get_submodule(name).weight
        outputs, inputs = weight.T.shape if conv else weight.shape
        taken = {(row, column) for row in rows for column in range(inputs)}
        taken |= {(row, column) for row in range(outputs) for column in columns}
        return {(weight.data_ptr(), *place) for place in taken}

    names = dict(block.named_modules(remove_duplicate=False))
    if s.kind == "mlp":
        inputs = [
            n for n in ("mlp.gate_proj", "mlp.up_proj", "mlp.fc1", "fc1", "mlp.c_fc", "mlp.dense_h_to_4h") if n in names
        ]
        taken = {mark for name in inputs for mark in marks(name, rows=[unit])}
        if fused := {"phi3": "mlp.gate_up_proj", "granite4": "shared_mlp.input_linear"}.get(family):
            taken = marks(fused, rows=[unit, unit + s.units])
        return taken | marks(s.module.removeprefix(s.block + "."), columns=[unit])
    slice_ = range(unit * s.unit_size, (unit + 1) * s.unit_size)
    query = FUSED_INPUTS.get(family, "self_attn.q_proj")
    rows = slice_
    if family.startswith("gpt-neox"):  # q, k, v of one head side by side
        query = "attention.query_key_value"
        rows = range(unit * 3 * s.unit_size, unit * 3 * s.unit_size + s.unit_size)
    return marks(query, rows=rows) | marks(s.module.removeprefix(s.block + "."), columns=slice_)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_achieved_sparsity_lies_between_its_sites(shares):
    off = dict(zip([site("mlp", 48, 384.0), site("heads", 4, 2048.0)], map(torch.tensor, shares), strict=True))
    assert min(shares) - 1e-6 <= achieved_sparsity(off).item() <= max(shares) + 1e-6
