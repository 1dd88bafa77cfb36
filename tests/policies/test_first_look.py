"""A first look at some inputs of gate and up."""

import pytest
import torch
from tiny_mlps import held_out_ids, letters, model_of, watch

from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.weights import weight_of
from sparseact.errors import InputError
from sparseact.masked.gate import guess
from sparseact.masked.selectors import mask, topk_mask
from sparseact.policies import POLICIES
from sparseact.policies.deja_vu import recall_of
from sparseact.sites import capture
from sparseact.testing import tiny_tokenizer


def test_a_look_at_all_inputs_but_one_chooses_as_the_neurons_themselves_do():
    model = model_of("llama")
    recipe = POLICIES["first-look"](sparsity=0.5, look=31 / 32).calibrate(model, tiny_tokenizer(), letters(0))
    sites = [neurons.inputs for neurons in find_neurons(model)]
    with torch.no_grad(), capture(model, [*sites, *(gate.site for gate in recipe.gates)]) as seen:
        model(held_out_ids(4))
    modules = dict(model.named_modules())
    for gate, site in zip(recipe.gates, sites, strict=True):
        chosen = mask(gate.selector, gate.score(guess(gate, modules, seen[site][..., 0])))
        exact = topk_mask(seen[gate.site][..., 0].abs() * weight_of(model, gate.site).norm(dim=0), 0.5)
        assert recall_of(chosen, exact) > 0.97


def test_a_longer_look_chooses_better_and_saves_less():
    losses, bytes_ = [], []
    for look in (0.1, 0.5):
        recipe = POLICIES["first-look"](sparsity=0.5, look=look).calibrate(
            model_of("llama"), tiny_tokenizer(), letters(0)
        )
        layers, density = watch(model_of("llama"), recipe, held_out_ids(1, 100))
        kept = [h.square().sum(dim=-1)[1:].mean() for _, h, _ in layers]
        losses.append(-sum(kept))
        bytes_.append(density.bytes_per_token())
    assert losses[0] > losses[1]
    assert bytes_[0] < bytes_[1]


@pytest.mark.parametrize("look", [0.0, 1.0, float("nan")])
def test_the_look_is_checked(look):
    with pytest.raises(InputError, match="look: "):
        POLICIES["first-look"](sparsity=0.5, look=look).calibrate(model_of("llama"), tiny_tokenizer(), letters(0))
