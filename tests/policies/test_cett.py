"""CETT: layers lose the same share."""

import pytest
import torch
from tiny_mlps import held_out_ids, letters, model_of, recipe_of

from sparseact.calibration.weights import weight_of
from sparseact.policies import POLICIES
from sparseact.policies.cett import cett
from sparseact.sites import capture
from sparseact.testing import tiny_tokenizer


def test_layers_lose_the_same_share():
    model, recipe = model_of("llama"), recipe_of("cett", "llama")
    sites = [gate.site for gate in recipe.gates]
    with torch.no_grad(), capture(model, sites) as seen:
        model(held_out_ids())
    found = []
    for gate in recipe.gates:
        h = seen[gate.site][:, 8:, :, 0].flatten(0, 1)
        found.append(cett(weight_of(model, gate.site), h, gate.score(h) <= gate.selector.value))
    # The thresholds are fitted to the sparse model's activations, these are the dense model's.
    assert found == pytest.approx([recipe.meta["cett"]] * len(found), rel=0.15)


def test_zeros_of_a_relu_go_first_and_cost_nothing():
    model, ids = model_of("opt"), held_out_ids(2, 40)
    recipe = POLICIES["cett"](sparsity=0.2).calibrate(model, tiny_tokenizer(), letters(0))
    with torch.no_grad():
        dense = model(ids).logits
        with recipe(model) as density:
            assert torch.equal(model(ids).logits, dense)
    assert recipe.meta["cett"] == pytest.approx(0, abs=1e-9)
    assert density.achieved() > 0.3
