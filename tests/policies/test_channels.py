"""Policies on the inputs of linears: golden vectors, and what each method promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from sparseact.calibration.basis import pca_basis, shared_inputs, svd_basis
from sparseact.calibration.fit import observe_scores, read_text
from sparseact.calibration.sample import take_sample
from sparseact.calibration.weights import column_norms, weight_of
from sparseact.errors import InputError
from sparseact.masked.apply import run_sparse
from sparseact.masked.gate import correction, keep, rotate
from sparseact.masked.selectors import fit, mask
from sparseact.policies import (
    SCAP,
    TEAL,
    WINA,
    Gate,
    LaRoSA,
    NOfM,
    RSparse,
    SparseAct,
    StatisticalTopK,
    TopP,
    load_recipe,
)
from sparseact.policies.r_sparse import columns, low_rank, rank_of
from sparseact.policies.scap import median, mode
from sparseact.recipes.phases import Phases
from sparseact.recipes.selectors import Threshold, TopK
from sparseact.sites import Site, find_channels, on_units
from sparseact.testing import LAYERS, tiny_model

EVERY = {
    "teal": TEAL,
    "greedy": lambda sparsity: TEAL(sparsity, greedy=True),
    "wina": WINA,
    "wina-released": lambda sparsity: WINA(sparsity, as_released=True, rotate=True),
    "wina-rotated": lambda sparsity: WINA(sparsity, rotate=True),
    "r-sparse": lambda sparsity: RSparse(sparsity, alpha=0.8),
    "larosa": LaRoSA,
    "scap": SCAP,
    "statistical-top-k": StatisticalTopK,
    "top-p": TopP,
    "n-of-m": NOfM,
    "sparseact": SparseAct,
}

# Section 10.2 of the survey: 3 outputs, 4 inputs, 2 of them kept.
W = torch.tensor([[1, 0.2, -3, 0.5], [0.5, -0.1, 2, 0.1], [-1, 0.3, 1, 4]])
X = torch.tensor([[2, -1, 0.6, -0.4]])
SITE = Site(0, "channels", "block", "block.w", 4, 1, 12.0)


def masked(gate: Gate, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask and the sparse output of a linear: what the runtime does, on one linear."""
    on = mask(gate.selector, gate.score(rotate(gate, x)))
    kept = keep(gate, x, on)
    y = kept @ weight.T
    return on, y if gate.low_rank is None else y + correction(gate, x - kept)


def kept(gate: Gate) -> list[int]:
    return masked(gate, X, W)[0][0].nonzero()[:, 0].tolist()


# --- golden vectors


def test_golden_column_norms_of_either_kind_of_linear():
    model = nn.Module()
    model.block = nn.Module()
    model.block.w = nn.Linear(4, 3)
    model.block.w.weight.data = W
    assert column_norms(model, SITE).tolist() == pytest.approx([1.5, 0.3742, 3.7417, 4.0324], abs=1e-4)
    assert weight_of(model, SITE).abs().sum(dim=0).tolist() == pytest.approx([2.5, 0.6, 6.0, 4.6])
    model.block.w = Conv1D(3, 4)  # stores its weight transposed
    model.block.w.weight.data = W.T.contiguous()
    assert column_norms(model, SITE).tolist() == pytest.approx([1.5, 0.3742, 3.7417, 4.0324], abs=1e-4)


@pytest.mark.parametrize(
    ("scale", "scores", "units", "y", "error"),
    [
        (None, [2, 1, 0.6, 0.4], [0, 1], [1.8, 1.1, -2.3], 2.5190),  # TEAL
        (W.norm(dim=0), [3, 0.3742, 2.245, 1.6129], [0, 2], [0.2, 2.2, -1.4], 1.9426),  # WINA
        (W.abs().sum(dim=0), [5, 0.6, 3.6, 1.84], [0, 2], [0.2, 2.2, -1.4], 1.9426),  # WAS
    ],
    ids=["teal", "wina", "was"],
)
@pytest.mark.parametrize("selector", [TopK(0.5), Threshold(0.0)])
def test_golden_scores_masks_and_outputs(scale, scores, units, y, error, selector):
    gate = Gate(SITE, selector, scale=scale)
    assert gate.score(X)[0].tolist() == pytest.approx(scores, abs=1e-3)
    gate = Gate(SITE, fit(selector, gate.score(X), 0.5), scale=scale)
    on, output = masked(gate, X, W)
    assert on[0].nonzero()[:, 0].tolist() == units
    assert output[0].tolist() == pytest.approx(y, abs=1e-5)
    assert (output - X @ W.T).norm().item() == pytest.approx(error, abs=1e-4)


def test_golden_r_sparse_and_its_scale_is_the_column_norm():
    _, values, right = torch.linalg.svd(W, full_matrices=False)
    assert (right.T * values).norm(dim=1).tolist() == pytest.approx(W.norm(dim=0).tolist(), abs=1e-5)
    gate = Gate(SITE, TopK(0.5), scale=W.norm(dim=0), low_rank=low_rank(W, 1))
    on, y = masked(gate, X, W)
    assert on.tolist() == [[True, False, True, False]]
    assert y[0].tolist() == pytest.approx([0.7366, 1.8259, -2.8374], abs=1e-4)
    assert (y - X @ W.T).norm().item() == pytest.approx(1.1312, abs=1e-4)


@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_full_rank_is_the_dense_output_for_any_mask(on):
    gate = Gate(SITE, TopK(0.5), low_rank=low_rank(W, 3))
    kept = keep(gate, X, torch.tensor([on]))
    y = kept @ W.T + correction(gate, X - kept)
    assert y[0].tolist() == pytest.approx((X @ W.T)[0].tolist(), abs=1e-5)


# --- all of them


@pytest.mark.parametrize("family", ["gpt2", "opt", "mobillama"])
@pytest.mark.parametrize("name", EVERY)
def test_level_0_is_bit_identical_and_reads_everything(family, name, tokenizer, text, unseen):
    model = tiny_model(family)
    recipe = EVERY[name](0.0).calibrate(model, tokenizer, text[:300])
    with torch.no_grad():
        dense = model(unseen[:2]).logits
        with recipe(model) as density:
            assert torch.equal(model(unseen[:2]).logits, dense)
    assert density.achieved() == 0
    assert density.bytes_per_token() == density.dense_bytes


@pytest.mark.parametrize("sparsity", [0.25, 0.6])
@pytest.mark.parametrize("name", EVERY)
def test_achieved_is_what_was_asked_for_net_of_what_the_policy_reads(name, sparsity, model, tokenizer, text, unseen):
    policy = EVERY[name](sparsity)
    recipe = policy.calibrate(model, tokenizer, text)
    with torch.no_grad(), recipe(model) as density:
        model(unseen)
    # One position of 120 is dense, and a count is a whole number of 32 units: on average a part of a percent.
    assert density.achieved() == pytest.approx(sparsity, abs=0.02)
    linears = sum(site.units * site.unit_bytes for site in find_channels(model))
    assert density.bytes_per_token() == pytest.approx(density.dense_bytes - density.achieved() * linears)
    extra = sum(gate.extra_bytes(4) for gate in recipe.gates)
    rotations = {"larosa": 2, "wina-rotated": 2, "wina-released": 2}.get(name, 0) * LAYERS * 32 * 32 * 4
    assert name == "r-sparse" or extra == pytest.approx(rotations)


@pytest.mark.parametrize("policy", [LaRoSA(0.9), WINA(0.9, rotate=True)])
def test_a_level_that_the_rotations_alone_exceed_is_refused(policy, model, tokenizer, text):
    with pytest.raises(InputError, match=r"sparsity: 0.9 is out of reach.* is 26\.7% of the weights; at most 0.733"):
        policy.calibrate(model, tokenizer, text)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("sparsity", [-0.1, 1.5, float("nan")])
def test_levels_outside_0_to_1_are_refused(name, sparsity, model, tokenizer, text):
    with pytest.raises(InputError, match="sparsity"):
        EVERY[name](sparsity).calibrate(model, tokenizer, text)


@pytest.mark.parametrize("family", ["llama", "mobillama", "phi3", "qwen2"])
@pytest.mark.parametrize("name", ["teal", "greedy", "wina", "r-sparse", "n-of-m"])
def test_the_account_is_a_brute_force_count_of_weights(family, name, tokenizer, text, unseen):
    """Weights are counted where an input that arrives at a linear is not 0, and factors where they correct."""
    model = tiny_model(family)
    recipe = EVERY[name](0.4).calibrate(model, tokenizer, text)
    ids, read = unseen[:3, :50], 0.0
    extra = {gate.site.module: sum(t.numel() for t in gate.low_rank or ()) for gate in recipe.gates}
    names = {id(model.get_submodule(module)): module for module in extra}

    def count(linear, args):
        nonlocal read
        x = args[0].flatten(0, -2)
        module = names[id(linear)]
        read += (
            (x != 0).sum().item() * linear.out_features / (LAYERS if family == "mobillama" and ".mlp." in module else 1)
        )
        read += (x == 0).any(dim=-1).sum().item() * extra[module]

    with torch.no_grad(), recipe(model) as density:
        hooks = [model.get_submodule(name).register_forward_pre_hook(count) for name in names.values()]
        model(ids)
    for hook in hooks:
        hook.remove()
    head = model.get_output_embeddings().weight.numel()
    assert density.bytes_per_token() == pytest.approx(4 * (head + read / ids.numel()), rel=1e-6)
    assert density.bytes_per_token() < density.dense_bytes


# --- WINA


def test_wina_with_equal_column_norms_is_top_k_of_x():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    same = Gate(SITE, TopK(0.5), scale=torch.full((4,), 0.3))
    assert torch.equal(masked(same, x, W)[0], masked(Gate(SITE, TopK(0.5)), x, W)[0])


def test_with_orthogonal_columns_the_error_is_the_sum_of_the_dropped_scores_squared():
    generator = torch.Generator().manual_seed(0)
    weight = torch.linalg.qr(torch.randn(6, 4, generator=generator, dtype=torch.float64))[0] * torch.arange(1, 5)
    x = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    gate = Gate(SITE, TopK(0.5), scale=weight.norm(dim=0))
    on, y = masked(gate, x, weight)
    dropped = gate.score(x).where(~on, 0)
    torch.testing.assert_close((y - x @ weight.T).square().sum(-1), dropped.square().sum(-1))


def test_rotated_wina_makes_the_columns_of_k_and_gate_orthogonal(model, tokenizer, text):
    recipe = WINA(0.3, rotate=True).calibrate(model, tokenizer, text)
    for gate in recipe.gates:
        kind = gate.site.module.rpartition(".")[2]
        assert (gate.basis is None) == (kind in ("o_proj", "down_proj"))
        assert gate.scale is not None
        if kind in ("k_proj", "gate_proj"):
            rotated = weight_of(model, gate.site) @ gate.basis
            gram = rotated.T @ rotated
            torch.testing.assert_close(gram, gate.scale.square().diag(), atol=1e-4, rtol=1e-4)
            values = torch.linalg.svdvals(weight_of(model, gate.site))
            torch.testing.assert_close(gate.scale[: len(values)], values, atol=1e-4, rtol=1e-4)
        if kind == "k_proj":  # 16 outputs: half of the 32 directions are not read at all
            assert gate.scale[16:].max() < 1e-4


def test_as_released_weighs_k_and_gate_only(model, tokenizer, text):
    recipe = WINA(0.3, as_released=True).calibrate(model, tokenizer, text)
    weighed = {gate.site.module.rpartition(".")[2] for gate in recipe.gates if gate.scale is not None}
    assert weighed == {"k_proj", "gate_proj"}


def test_folding_a_norms_weight_changes_the_scores_of_teal_and_not_of_wina(tokenizer, text):
    model, folded = tiny_model("llama"), tiny_model("llama")
    with torch.no_grad():
        for block in folded.model.layers:
            for norm, linears in (
                (block.input_layernorm, (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj)),
                (block.post_attention_layernorm, (block.mlp.gate_proj, block.mlp.up_proj)),
            ):
                for linear in linears:
                    linear.weight.mul_(norm.weight)
                norm.weight.fill_(1.0)
    ids = read_text(model, tokenizer, text).windows[:2]
    torch.testing.assert_close(folded(ids).logits, model(ids).logits, atol=1e-3, rtol=1e-3)

    def scores(policy, of):
        recipe = policy.calibrate(of, tokenizer, text)
        found = observe_scores(of, recipe.gates, ids, Phases(), masked=False)
        return {site.name: value for site, value in found.items() if "o_proj" not in site.name}

    wina, folded_wina = scores(WINA(0.4), model), scores(WINA(0.4), folded)
    for name, value in wina.items():
        torch.testing.assert_close(value, folded_wina[name], atol=1e-3, rtol=1e-3)
    teal, folded_teal = scores(TEAL(0.4), model), scores(TEAL(0.4), folded)
    assert not torch.allclose(teal["self_attn.q_proj.1"], folded_teal["self_attn.q_proj.1"], atol=1e-2)


# --- R-Sparse


@given(outputs=st.integers(8, 300), inputs=st.integers(8, 300), sparsity=st.floats(0.05, 0.95), alpha=st.floats(0, 1))
def test_r_sparse_reads_of_every_linear_what_the_budget_says(outputs, inputs, sparsity, alpha):
    site = Site(0, "channels", "block", "block.w", inputs, 1, outputs * 4.0)
    rank = rank_of((outputs, inputs), sparsity, alpha)
    factors = (torch.zeros(outputs, rank), torch.zeros(rank, inputs)) if rank else None
    level = columns([Gate(site, TopK(0.0), low_rank=factors)], sparsity, 4)[site]
    budget = outputs * inputs * (1 - sparsity)
    assert (1 - level) * inputs * outputs + rank * (inputs + outputs) == pytest.approx(budget)
    assert 0 <= (1 - alpha) * budget - rank * (inputs + outputs) < inputs + outputs + 1


def test_alpha_1_is_teal(model, tokenizer, text):
    teal, ours = TEAL(0.4).calibrate(model, tokenizer, text), RSparse(0.4, alpha=1.0).calibrate(model, tokenizer, text)
    assert [gate.selector for gate in ours.gates] == [gate.selector for gate in teal.gates]
    assert not any(gate.tensors() for gate in ours.gates)


@pytest.mark.parametrize("family", ["llama", "mobillama", "gpt2", "opt", "phi3"])
def test_full_rank_gives_the_dense_logits_back_whatever_is_off(family, unseen):
    model = tiny_model(family)
    gates = [Gate(site, TopK(0.7), low_rank=low_rank(weight_of(model, site), 48)) for site in find_channels(model)]
    with torch.no_grad():
        dense = model(unseen[:2]).logits
        with run_sparse(model, gates, Phases()):
            torch.testing.assert_close(model(unseen[:2]).logits, dense, atol=2e-3, rtol=2e-3)


def test_a_low_rank_guess_brings_a_linears_output_nearer(model, tokenizer, text):
    windows = read_text(model, tokenizer, text).windows
    recipe = RSparse(0.5, alpha=0.6).calibrate(model, tokenizer, text)
    sample = take_sample(model, [gate.site for gate in recipe.gates], windows)
    for gate in recipe.gates:
        x, weight = sample.x[gate.site], weight_of(model, gate.site)
        errors = [(masked(one, x, weight)[1] - x @ weight.T).norm() for one in (gate, replace(gate, low_rank=None))]
        assert errors[0] < 0.95 * errors[1]


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_an_alpha_outside_0_to_1_is_refused(alpha, model, tokenizer, text):
    with pytest.raises(InputError, match=r"r-sparse: alpha -?\d.1 is not between 0 and 1"):
        RSparse(0.4, alpha=alpha).calibrate(model, tokenizer, text)


# --- bases


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), tokens=st.integers(2, 60))
def test_bases_are_orthonormal_and_in_order(seed, tokens):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, 24, generator=generator) * torch.linspace(0.1, 3, 24)
    one = torch.eye(24)
    pca, svd = pca_basis(x), svd_basis(x)
    torch.testing.assert_close(pca.T @ pca, one, atol=1e-6, rtol=0)
    torch.testing.assert_close(svd.T @ svd, one, atol=1e-6, rtol=0)
    for basis in (pca, svd):  # the second moments fall along either
        moments = (x @ basis).square().sum(dim=0)
        assert (moments.diff() <= 1e-3 * moments[0]).all()


@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3", "gpt2", "opt"])
def test_a_basis_alone_leaves_the_logits_unchanged(family, tokenizer, text, unseen):
    model = tiny_model(family)
    recipe = LaRoSA(0.3).calibrate(model, tokenizer, text)
    gates = {gate.site: gate for gate in recipe.gates if gate.basis is not None}
    assert len(gates) == {"llama": 5, "gemma3": 5, "phi3": 2, "gpt2": 2, "opt": 4}[family] * LAYERS

    def there_and_back(site, x):
        units = x.flatten(-2)
        every = torch.ones_like(units, dtype=torch.bool)
        every[..., 0] = False  # else the gate would not rotate at all
        gate = gates[site]
        lost = rotate(gate, units)[..., :1] * gate.basis[:, 0]
        return (keep(gate, units, every) + lost).view_as(x)

    with torch.no_grad():
        dense = model(unseen[:2]).logits
        with on_units(model, list(gates), there_and_back):
            torch.testing.assert_close(model(unseen[:2]).logits, dense, atol=2e-3, rtol=2e-3)


def test_linears_of_one_input_share_one_basis_in_memory_on_disk_and_in_the_account(model, tokenizer, text, tmp_path):
    recipe = LaRoSA(0.4).calibrate(model, tokenizer, text)
    recipe.save(tmp_path)
    for one in (recipe, load_recipe(tmp_path)):
        by_name = {gate.site.name: gate for gate in one.gates}
        q, k, v, gate, up = (
            by_name[f"{name}.1"]
            for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
        )
        assert q.basis is k.basis is v.basis
        assert gate.basis is up.basis is not q.basis
        assert by_name["self_attn.o_proj.1"].basis is by_name["mlp.down_proj.1"].basis is None
        assert q.extra_bytes(4) + k.extra_bytes(4) + v.extra_bytes(4) == pytest.approx(32 * 32 * 4)
        assert gate.extra_bytes(2) + up.extra_bytes(2) == pytest.approx(32 * 32 * 2)
    with safe_open(tmp_path / "recipe.safetensors", "pt") as file:
        assert len(file.keys()) == 2 * LAYERS


def test_every_token_keeps_the_same_count_and_q_k_v_the_same_directions(model, tokenizer, text, unseen):
    recipe = LaRoSA(0.4).calibrate(model, tokenizer, text)
    scores = observe_scores(model, recipe.gates, unseen, Phases(), masked=True)
    masks = {gate.site.name: mask(gate.selector, scores[gate.site]) for gate in recipe.gates}
    assert all(len(mask.sum(dim=-1).unique()) == 1 for mask in masks.values())
    assert torch.equal(masks["self_attn.q_proj.2"], masks["self_attn.k_proj.2"])
    assert torch.equal(masks["self_attn.q_proj.2"], masks["self_attn.v_proj.2"])


def test_shared_inputs_are_really_the_same(unseen):
    for family in ("llama", "phi3", "gpt2", "opt", "gemma3", "stablelm", "gpt-neox"):
        model = tiny_model(family)
        sites = find_channels(model)
        sample = take_sample(model, sites, unseen[:2])
        groups = shared_inputs(model, sites)
        assert len(groups) == 2 * LAYERS
        for group in groups:
            assert all(torch.equal(sample.x[site], sample.x[group[0]]) for site in group)


def test_principal_directions_lose_less_than_channels_do(model, tokenizer, text):
    windows = read_text(model, tokenizer, text).windows
    (site,) = (site for site in find_channels(model) if site.name == "self_attn.q_proj.1")
    x = take_sample(model, [site], windows).x[site]
    basis = pca_basis(x)
    errors = [
        (keep(gate, x, mask(gate.selector, gate.score(rotate(gate, x)))) - x).norm().item()
        for gate in (Gate(site, TopK(0.5), basis=basis), Gate(site, TopK(0.5)))
    ]
    assert errors[0] < 0.9 * errors[1]


# --- SCAP


def test_scap_with_shift_0_is_teal():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    for one, other in zip(
        masked(Gate(SITE, Threshold(0.5), shift=torch.zeros(4)), x, W),
        masked(Gate(SITE, Threshold(0.5)), x, W),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_moving_inputs_and_shift_together_moves_the_output_only_by_their_share():
    generator = torch.Generator().manual_seed(0)
    x, shift = (torch.randn(*size, 4, generator=generator, dtype=torch.float64) for size in ((50,), ()))
    weight = W.double()
    on, y = masked(Gate(SITE, Threshold(0.5), shift=shift), x, weight)
    also_on, moved = masked(Gate(SITE, Threshold(0.5), shift=shift + 0.25), x + 0.25, weight)
    assert torch.equal(on, also_on)
    torch.testing.assert_close(moved, y + 0.25 * weight.sum(dim=1))
    # What is off is worth its shift, whose share of the output is a bias of the linear.
    torch.testing.assert_close(y, ((x - shift) * on) @ weight.T + weight @ shift)


def test_the_mode_is_where_most_values_are():
    generator = torch.Generator().manual_seed(0)
    dense, wide = torch.randn(700, generator=generator) * 0.1 - 0.17, torch.rand(300, generator=generator) * 8
    x = torch.stack([torch.cat([dense, wide]), torch.randn(1000, generator=generator) + 3, torch.full((1000,), 2.0)], 1)
    x = x[torch.randperm(1000, generator=generator)]
    assert mode(x).tolist() == pytest.approx([-0.17, 3, 2], abs=0.3)
    assert mode(x)[0].item() == pytest.approx(-0.17, abs=0.06)
    assert median(x).tolist() == pytest.approx(np.quantile(x.numpy(), 0.5, axis=0).tolist(), abs=0.02)


def test_scap_takes_the_center_that_is_asked_for(model, tokenizer, text):
    windows = read_text(model, tokenizer, text).windows
    sites = find_channels(model)
    sample = take_sample(model, sites, windows)
    for center, function in (("mode", mode), ("median", median)):
        recipe = SCAP(0.4, center=center).calibrate(model, tokenizer, text)
        assert all(torch.equal(gate.shift, function(sample.x[gate.site])) for gate in recipe.gates)
    with pytest.raises(InputError, match=r"scap: unknown center 'moed'. Did you mean mode\? Valid: mode, median"):
        SCAP(0.4, center="moed").calibrate(model, tokenizer, text)


# --- N:M


def test_n_of_m_counts_in_every_group(model, tokenizer, text, unseen):
    recipe = NOfM(0.4).calibrate(model, tokenizer, text)
    scores = observe_scores(model, recipe.gates, unseen[:5], Phases(), masked=True)
    counts = set()
    for gate in recipe.gates:
        groups = mask(gate.selector, scores[gate.site]).unflatten(-1, (-1, 16)).sum(dim=-1)
        assert (groups == gate.selector.n).all()
        counts.add(gate.selector.n)
    assert counts <= {9, 10}  # .4 of 16 lies between


def test_an_m_that_does_not_divide_the_inputs_is_refused(model, tokenizer, text):
    with pytest.raises(InputError, match=r"m: self_attn.q_proj.0 has 32 inputs, which are not a multiple of 7"):
        NOfM(0.5, m=7).calibrate(model, tokenizer, text)
