"""Policies of MLP neurons: masks and bytes against slow references, on every family."""

import math

import pytest
import torch
from tiny_mlps import held_out_ids, letters, mlp_of, model_of, recipe_of, watch
from torch.nn.functional import linear

from sparseact.calibration.neurons import find_neurons, read_signal
from sparseact.errors import UnsupportedModelError
from sparseact.masked.selectors import mask
from sparseact.policies import POLICIES, load_recipe
from sparseact.recipes.selectors import TopK
from sparseact.sites import capture, find_channels
from sparseact.testing import DISTINCT, tiny_tokenizer

PER_TOKEN = (
    "cats",
    "chess",
    "countdown",
    "top-k",
    "cett",
    "deja-vu",
    "static",
    "first-look",
    "leading-bits",
    "block-router",
)
NEEDS_UP = ("chess", "countdown")
SKIPS = {
    "cats": ("up", "down"),
    "chess": ("up", "down"),
    "countdown": ("gate", "down"),
    "top-k": ("up", "down"),
    "cett": ("down",),
    "deja-vu": ("gate", "up", "down"),
    "static": ("gate", "up", "down"),
    "first-look": ("gate", "up", "down"),
    "leading-bits": ("gate", "up", "down"),
    "block-router": ("gate", "up", "down"),
    "griffin": ("gate", "up", "down"),
}
UNGATED = ("phi", "nemotron", "opt", "opt-post-norm", "gpt2", "gpt-neox", "gpt-neox-sequential")
CASES = [(name, family) for name in PER_TOKEN for family in DISTINCT if name not in NEEDS_UP or family not in UNGATED]


@pytest.mark.parametrize("family", DISTINCT)
def test_the_parts_make_the_neurons(family):
    model = model_of(family)
    found = find_neurons(model)
    sites = [site for neurons in found for site in (neurons.site, neurons.inputs)]
    with torch.no_grad(), capture(model, sites) as seen:
        model(held_out_ids(1, 20))
    for neurons in found:
        x, h = seen[neurons.inputs][0, :, :, 0], seen[neurons.site][0, :, :, 0]
        made = read_signal(model, neurons.gate, x)
        if neurons.up is not None:
            made = made * read_signal(model, neurons.up, x)
        assert torch.allclose(made, h, atol=1e-6)
        assert sum(neurons.part_bytes.values()) == neurons.site.unit_bytes
        assert (neurons.up is None) == (family in UNGATED)


@pytest.mark.parametrize(("name", "family"), [(name, family) for name in NEEDS_UP for family in UNGATED])
def test_an_mlp_without_up_is_refused_by_what_reads_it(name, family):
    with pytest.raises(UnsupportedModelError, match=f"policy: {name}: .* without an up projection.*use cats") as caught:
        POLICIES[name](sparsity=0.5).calibrate(model_of(family), tiny_tokenizer(), letters(0))
    assert "\n" not in str(caught.value)


def _looked_at(gate, x):
    """Which inputs [tokens, inputs] a first look reads: the largest of each token."""
    count = round(gate.signal.look * x.shape[-1])
    return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, x.abs().topk(count).indices, True)


def _high(weight):
    """What the first 4 of 8 bits say of a weight [outputs, inputs], number by number."""
    known = torch.empty_like(weight)
    for row, values in enumerate(weight.tolist()):
        for first in range(0, len(values), 32):
            block = values[first : first + 32]
            scale = float(torch.tensor(max(map(abs, block)) / 127).half())
            for j, value in enumerate(block):
                q = min(max(round(value / scale), -127), 127) if scale else 0
                known[row, first + j] = (q // 16 * 16 + 7.5) * scale
    return known


def _expected_mask(name, gate, g, u, h, x, model, layer):
    (Wg, bg), up, (down, _), act = mlp_of(model, layer)
    if name in {"cats", "chess"}:
        return g.abs() * (1 if gate.scale is None else gate.scale) > gate.selector.value
    if name == "countdown":
        return u.abs() > gate.selector.value
    if name == "cett":
        return h.abs() * down.norm(dim=0) > gate.selector.value
    if name == "leading-bits":
        guesses = [act(linear(x, _high(Wg), bg)), *([linear(x, _high(up[0]), up[1])] if up else [])]
        return (math.prod(guesses) - gate.shift).abs() * down.norm(dim=0) > gate.selector.value
    if name == "block-router":
        weight, bias = gate.router
        by_block = torch.sigmoid(torch.stack([(x * row).sum(dim=-1) for row in weight], dim=-1) + bias)
        return torch.stack([by_block[:, block] for block in gate.blocks.tolist()], dim=-1) > gate.selector.value
    if name == "top-k":
        score = g.abs()
    elif name == "first-look":
        some = x * _looked_at(gate, x)
        guesses = [act(linear(some, Wg, bg)), *([linear(some, *up)] if up else [])]
        score = gate.scale * math.prod(
            (guess.square() + error.square()).sqrt() for guess, error in zip(guesses, gate.guess_error, strict=True)
        )
    else:
        first, second, bias = gate.predictor
        score = x @ first.T @ second.T + bias  # the sigmoid keeps the order
    kept = round(g.shape[-1] * (1 - gate.selector.sparsity) - 1e-9)
    return torch.zeros_like(g, dtype=torch.bool).scatter_(-1, score.topk(kept).indices, True)


@pytest.mark.parametrize(("name", "family"), CASES)
def test_masks_are_the_formula_and_skipping_equals_masking(name, family):
    model, recipe = model_of(family), recipe_of(name, family)
    layers, density = watch(model, recipe, held_out_ids(1, 20))
    assert len(layers) == len(recipe.gates)
    skipped_bytes = 0.0
    shares = len(layers) if family == "mobillama" else 1
    for layer, (gate, (x, masked, y)) in enumerate(zip(recipe.gates, layers, strict=True)):
        (Wg, bg), up, (Wd, bd), act = mlp_of(model, layer)
        g = act(linear(x, Wg, bg))
        u = linear(x, *up) if up else torch.ones_like(g)
        on = _expected_mask(name, gate, g, u, g * u, x, model, layer)
        on[0] = True  # the first position is dense
        assert not on[1:].all(dim=-1).any(), "nothing was masked"
        worth = torch.zeros(()) if gate.shift is None else gate.shift  # what is off
        assert torch.allclose(masked, torch.where(on, g * u, worth), atol=1e-5)
        for token, kept in enumerate(on):  # read nothing of what is off
            rows = act(linear(x[token], Wg[kept], None if bg is None else bg[kept]))
            if up:
                rows = rows * linear(x[token], up[0][kept], None if up[1] is None else up[1][kept])
            rest = Wd @ torch.where(kept, 0, worth)
            assert torch.allclose(linear(rows, Wd[:, kept], bd) + rest, y[token], rtol=1e-5, atol=2e-5)
            unread = (
                ~_looked_at(gate, x)[token] if name == "first-look" else torch.ones_like(x[token], dtype=torch.bool)
            )
            parts = {"gate": Wg[~kept][:, unread], "down": Wd[:, ~kept]}
            parts["up"] = up[0][~kept][:, unread] if up else Wg[:0]
            low = {"gate": 0.5, "up": 0.5} if name == "leading-bits" else {}  # half of their bits
            skipped_bytes += sum(4 * parts[part].numel() * low.get(part, 1) for part in SKIPS[name]) / shares
    tokens = 20
    predictors = sum(4 * sum(t.numel() for t in gate.predictor or gate.router or ()) for gate in recipe.gates)
    linears = sum(site.units * site.unit_bytes for site in find_channels(model))
    head = 4 * model.get_output_embeddings().weight.numel()
    brute_force = linears + head - skipped_bytes / tokens + predictors * (tokens - 1) / tokens
    assert density.bytes_per_token() == pytest.approx(brute_force)


@pytest.mark.parametrize(("name", "family"), CASES)
def test_the_request_is_met_on_unseen_text(name, family):
    ids = held_out_ids()
    with torch.no_grad(), recipe_of(name, family)(model_of(family)) as density:
        model_of(family)(ids)
    achieved = density.achieved() * ids.shape[1] / (ids.shape[1] - 1)  # the first position is dense
    if "opt" in family and name in {"cats", "cett"}:  # what ReLU made 0 is always off
        assert achieved > 0.49
    else:
        # Budgets that differ by layer add up what each layer misses; a router was fitted to these very tokens.
        near = 0.015 if name in {"leading-bits", "block-router"} else 0.012 if family == "mobillama" else 0.01
        assert achieved == pytest.approx(0.5, abs=near)


@pytest.mark.parametrize("family", ["llama", "mobillama", "phi3", "opt", "gpt2"])
@pytest.mark.parametrize("name", [*PER_TOKEN, "griffin"])
def test_level_0_is_the_dense_model(name, family):
    if name in NEEDS_UP and family in UNGATED:
        return
    model, ids = model_of(family), held_out_ids(2, 20)
    with torch.no_grad():
        dense = model(ids).logits
        with recipe_of(name, family, 0.0)(model) as density:
            assert torch.equal(model(ids).logits, dense)
    assert density.achieved() == 0


@pytest.mark.parametrize("name", ["deja-vu", "griffin", "chess", "first-look", "leading-bits", "block-router"])
def test_a_recipe_comes_back_from_disk(name, tmp_path):
    model, recipe, ids = model_of("llama"), recipe_of(name, "llama"), held_out_ids(2, 20)
    recipe.save(tmp_path)
    texts = []
    for one in (recipe, load_recipe(tmp_path)):
        with one(model) as density:
            texts.append(model.generate(ids, max_new_tokens=12, do_sample=False))
        assert density.achieved("decode") == pytest.approx(0.5, abs=0.06)
    assert torch.equal(*texts)


def test_top_k_is_exact_per_token():
    recipe = recipe_of("top-k", "llama")
    assert recipe.gates[0].selector == TopK(0.5)
    assert mask(TopK(0.25), torch.rand(7, 48)).sum(dim=-1).eq(36).all()
