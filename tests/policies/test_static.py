"""Static: what it keeps is the same for all tokens, the largest on average or random."""

import pytest
import torch
from tiny_mlps import held_out_ids, letters, model_of

from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.weights import column_norms
from sparseact.errors import InputError
from sparseact.policies import Static
from sparseact.sites import capture
from sparseact.testing import tiny_model, tiny_tokenizer


def kept(model, recipe):
    """Whether each neuron of each layer was on [layers, tokens, neurons]."""
    sites = [part.site for part in find_neurons(model)]
    with torch.no_grad(), recipe(model), capture(model, sites) as seen:
        model(held_out_ids(1, 20))
    return torch.stack([seen[site][0, 1:, :, 0] != 0 for site in sites])


@pytest.mark.parametrize("by", ["importance", "random"])
def test_half_are_on_and_the_same_ones_for_all_tokens(by):
    model = model_of("llama")
    on = kept(model, Static(0.5, by=by).calibrate(model, tiny_tokenizer(), letters(0)))
    assert (on == on[:, :1]).all()
    assert (on[:, 0].float().mean(dim=1) - 0.5).abs().max() < 0.03


def test_importance_is_the_mean_size_times_the_norm_of_the_column():
    model = tiny_model("llama")
    with torch.no_grad():
        for part in find_neurons(model):
            down = dict(model.named_modules())[part.site.module]
            down.weight[:, 7] *= 1000
            down.weight[:, 5] = 0
    recipe = Static(0.5).calibrate(model, tiny_tokenizer(), letters(0))
    for gate in recipe.gates:
        assert column_norms(model, gate.site)[7] > 100
        rank = gate.predictor[2]
        assert rank.argmax() == 7
        assert rank.argmin() == 5
        assert not gate.predictor[0].any()


def test_seeds_draw_other_neurons():
    model = model_of("llama")
    first, same, other = (
        Static(0.5, by="random", seed=seed).calibrate(model, tiny_tokenizer(), letters(0)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.gates[0].predictor[2], same.gates[0].predictor[2])
    assert not torch.equal(first.gates[0].predictor[2], other.gates[0].predictor[2])


def test_an_unknown_choice_is_refused_in_one_line():
    model = model_of("llama")
    with pytest.raises(InputError, match=r"^by: unknown choice 'size'.*importance.*random"):
        Static(0.5, by="size").calibrate(model, tiny_tokenizer(), letters(0))
