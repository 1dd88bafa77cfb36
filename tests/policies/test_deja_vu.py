"""Deja Vu: what its predictors know."""

import pytest
import torch
from tiny_mlps import held_out_ids, letters, model_of

from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.weights import weight_of
from sparseact.errors import InputError
from sparseact.masked.gate import predict
from sparseact.masked.selectors import mask, topk_mask
from sparseact.policies import POLICIES
from sparseact.policies.deja_vu import recall_of
from sparseact.sites import capture
from sparseact.testing import tiny_model, tiny_tokenizer


def _uneven_model():
    """A model in which some neurons' columns of down are far larger than others'."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        for block in model.transformer.h:
            block.mlp.c_proj.weight *= torch.linspace(0.1, 3, block.mlp.c_proj.weight.shape[0])[:, None]
    return model


def test_recall_is_what_it_is_on_unseen_text():
    model = _uneven_model()
    recipe = POLICIES["deja-vu"](sparsity=0.5).calibrate(model, tiny_tokenizer(), letters(0))
    found = recipe.meta["recall"]
    assert set(found) == {"mean", "mlp.0", "mlp.1", "mlp.2"}
    inputs = [neurons.inputs for neurons in find_neurons(model)]
    with torch.no_grad(), capture(model, [*inputs, *(gate.site for gate in recipe.gates)]) as seen:
        model(held_out_ids())
    for gate, entered in zip(recipe.gates, inputs, strict=True):
        h, x = seen[gate.site][:, 8:, :, 0], seen[entered][:, 8:, :, 0]
        oracle = topk_mask(h.abs() * weight_of(model, gate.site).norm(dim=0), gate.selector.sparsity)
        kept = mask(gate.selector, gate.score(predict(gate, x)))
        assert recall_of(kept, oracle) == pytest.approx(found[gate.site.name], abs=0.03)


@pytest.mark.parametrize("target", ["activation", "attribution"])
def test_recall_is_above_chance(target):
    recipe = POLICIES["deja-vu"](sparsity=0.5, target=target).calibrate(model_of("gpt2"), tiny_tokenizer(), letters(0))
    chance = 1 - recipe.gates[0].selector.sparsity
    assert recipe.meta["recall"]["mean"] > chance + 0.05


def test_an_attribution_target_sees_what_the_loss_depends_on():
    # Half of the neurons write where nothing reads: activations do not know, gradients do.
    model = tiny_model("gpt2")
    last = model.transformer.h[-1].mlp
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())  # tied to the embedding
        model.lm_head.weight[:, 16:] = 0
        last.c_proj.weight[:24, :16] = 0
        last.c_proj.weight[24:, 16:] = 0
        model.transformer.ln_f = torch.nn.Identity()  # it would mix the two halves
    shares = {}
    for target in ("activation", "attribution"):
        recipe = POLICIES["deja-vu"](sparsity=0.4, target=target).calibrate(model, tiny_tokenizer(), letters(0))
        with torch.no_grad(), capture(model, [find_neurons(model)[-1].inputs]) as seen:
            model(held_out_ids(2))
        gate, (x,) = recipe.gates[-1], seen.values()
        kept = mask(gate.selector, gate.score(predict(gate, x[..., 0]))).float()
        shares[target] = float(kept[..., 24:].sum() / kept.sum())
    assert shares["attribution"] > 0.95
    assert shares["activation"] < 0.7


def test_a_predictor_that_knows_more_recalls_more_and_reads_more():
    poor, rich = (
        POLICIES["deja-vu"](sparsity=0.3, rank=rank).calibrate(model_of("gpt2"), tiny_tokenizer(), letters(0))
        for rank in (0.06, 0.5)
    )
    assert rich.meta["recall"]["mean"] > poor.meta["recall"]["mean"] + 0.02
    assert rich.gates[0].extra_bytes(4) > 4 * poor.gates[0].extra_bytes(4)


@pytest.mark.parametrize(("option", "value"), [("target", "magnitude"), ("rank", 0.0), ("rank", 2.0)])
def test_options_of_the_predictor_are_checked(option, value):
    with pytest.raises(InputError, match=f"{option}: "):
        POLICIES["deja-vu"](sparsity=0.5, **{option: value}).calibrate(model_of("gpt2"), tiny_tokenizer(), letters(0))
