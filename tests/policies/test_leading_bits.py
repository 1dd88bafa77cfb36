"""Leading bits of gate and up, and constants in place of what is off."""

import pytest
import torch
from tiny_mlps import held_out_ids, letters, mlp_of, model_of, watch
from torch.nn.functional import linear

from sparseact.errors import InputError
from sparseact.policies import POLICIES
from sparseact.policies.deja_vu import recall_of
from sparseact.sites import capture
from sparseact.testing import tiny_tokenizer


def test_without_constants_what_is_off_is_nothing():
    recipe = POLICIES["leading-bits"](sparsity=0.5, constants=False).calibrate(
        model_of("llama"), tiny_tokenizer(), letters(0)
    )
    assert all(gate.shift is None for gate in recipe.gates)


def test_a_constant_is_the_mean_of_the_tokens_for_which_the_neuron_is_off():
    """On other text than they were found on, and where the layers before are sparse too, they are much the same."""
    recipe = POLICIES["leading-bits"](sparsity=0.5).calibrate(model_of("llama"), tiny_tokenizer(), letters(0))
    gate, site = recipe.gates[0], recipe.gates[0].site
    total, count = torch.zeros(site.units), torch.zeros(site.units)
    for row in held_out_ids().split(1):
        with torch.no_grad(), capture(model_of("llama"), [site]) as seen:
            model_of("llama")(row)
        off = watch(model_of("llama"), recipe, row)[0][0][1] == gate.shift
        total += (seen[site][0, :, :, 0] * off).sum(dim=0)
        count += off.sum(dim=0)
    often = count > 200
    assert often.sum() > 10
    mean = (total / count)[often]
    assert (mean - gate.shift[often]).norm() < 0.5 * mean.norm()


def test_more_leading_bits_choose_better_and_save_less():
    overlap, bytes_ = [], []
    for bits in (2, 6):
        recipe = POLICIES["leading-bits"](sparsity=0.5, bits=bits).calibrate(
            model_of("llama"), tiny_tokenizer(), letters(0)
        )
        layers, density = watch(model_of("llama"), recipe, held_out_ids(1, 100))
        found = []
        for layer, (gate, (x, masked, _)) in enumerate(zip(recipe.gates, layers, strict=True)):
            (Wg, bg), up, (down, _), act = mlp_of(model_of("llama"), layer)
            score = (act(linear(x, Wg, bg)) * linear(x, *up) - gate.shift).abs() * down.norm(dim=0)
            on = masked != gate.shift
            exact = score > score.flatten().kthvalue(int((~on).sum()) or 1).values
            found.append(recall_of(on[1:], exact[1:]))
        overlap.append(min(found))
        bytes_.append(density.bytes_per_token())
    assert 0.5 < overlap[0] < overlap[1] - 0.05
    assert overlap[1] > 0.93
    assert bytes_[0] < bytes_[1]


@pytest.mark.parametrize("bits", [0, 8])
def test_the_bits_are_checked(bits):
    with pytest.raises(InputError, match=f"bits: {bits} is not between 1 and 7"):
        POLICIES["leading-bits"](sparsity=0.5, bits=bits).calibrate(model_of("llama"), tiny_tokenizer(), letters(0))
