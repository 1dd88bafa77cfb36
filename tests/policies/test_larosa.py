"""LaRoSA as in its paper: one rotation a layer, which the weights around it absorb."""

import copy

import pytest
import torch
from torch import nn

from sparseact.errors import InputError
from sparseact.policies import LaRoSA
from sparseact.recipes.phases import Phases
from sparseact.recipes.selectors import keep_count
from sparseact.testing import LAYERS, tiny_model


def test_golden_bytes_of_the_absorbed_rotation(model, tokenizer, text):
    """By hand: a layer of the tiny model is 32 x 32 (q, o) + 2 x 16 x 32 (k, v) + 3 x 32 x 48 = 7,680 weights.

    One rotation is 1,024 of them, 2/15; two are 4/15.
    """
    gates = LaRoSA(0.4, absorbed=True).calibrate(model, tokenizer, text).gates
    assert {gate.basis_shares for gate in gates if gate.basis is not None} == {5}  # q, k, v, gate, up
    assert sum(gate.extra_bytes(4) for gate in gates) == pytest.approx(LAYERS * 4 * 1024)
    assert sum(gate.extra_bytes(2) for gate in gates) == pytest.approx(LAYERS * 2 * 1024)
    with pytest.raises(InputError, match=r"is 13\.3% of the weights; at most 0.867"):
        LaRoSA(0.9, absorbed=True).calibrate(model, tokenizer, text)


def test_the_absorbed_rotation_is_the_model_whose_weights_absorbed_it(model, tokenizer, text, unseen):
    """Rotated weights, norms without weights, one adapter between layers; the embedding and the head rotated too."""
    recipe = LaRoSA(0.4, absorbed=True, phases=Phases(dense_first=0)).calibrate(model, tokenizer, text)
    by_module = {gate.site.module: gate for gate in recipe.gates}
    absorbed = copy.deepcopy(model)
    absorbed.lm_head.weight = nn.Parameter(absorbed.lm_head.weight.detach().clone())  # if it was the embedding
    layers = absorbed.model.layers
    bases = [by_module[f"model.layers.{number}.self_attn.q_proj"].basis for number in range(len(layers))]
    hooks = []

    def keep_top(linear, gate):
        count = gate.site.units - keep_count(gate.site.units, gate.selector.sparsity)

        def hook(_, args):
            x = args[0]
            return x.scatter(-1, x.abs().topk(count, largest=False).indices, 0.0) if count else x

        hooks.append(linear.register_forward_pre_hook(hook))

    with torch.no_grad():
        absorbed.model.embed_tokens.weight.data = absorbed.model.embed_tokens.weight @ bases[0]
        for number, (layer, basis) in enumerate(zip(layers, bases, strict=True)):
            for norm, linears in (
                (layer.input_layernorm, [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]),
                (layer.post_attention_layernorm, [layer.mlp.gate_proj, layer.mlp.up_proj]),
            ):
                for linear in linears:
                    linear.weight.data = (linear.weight * norm.weight) @ basis
                norm.weight.data = torch.ones_like(norm.weight)
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight.data = basis.T @ linear.weight
                assert linear.bias is None
            if number:
                adapter = bases[number - 1].T @ basis
                hooks.append(layer.register_forward_pre_hook(lambda _, args, a=adapter: (args[0] @ a, *args[1:])))
            for name, linear in layer.named_modules():
                if isinstance(linear, nn.Linear):
                    keep_top(linear, by_module[f"model.layers.{number}.{name}"])
        absorbed.lm_head.weight.data = (absorbed.lm_head.weight * absorbed.model.norm.weight) @ bases[-1]
        absorbed.model.norm.weight.data = torch.ones_like(absorbed.model.norm.weight)
        with recipe(model):
            ours = model(unseen[:2]).logits
        dense = model(unseen[:2]).logits
        theirs = absorbed(unseen[:2]).logits
    assert (ours - dense).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("family", "odd"),
    [("gemma3", "layernorm is no norm before"), ("phi", "is no RMSNorm"), ("olmo2", "no norm before")],
)
def test_what_cannot_absorb_a_rotation_is_refused(family, odd, tokenizer, text):
    with pytest.raises(InputError, match=f"^absorbed: .*{odd}"):
        LaRoSA(0.4, absorbed=True).calibrate(tiny_model(family), tokenizer, text)
