"""Calls that a caller may make: compiled functions, inference mode, blocks that run nothing, prompts in parts."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import sparseact as sa
from sparseact.attribution import attribute_in_one_pass, measure_interdependency, path_gradients
from sparseact.engine.engine import Engine
from sparseact.errors import InputError, SparseactError
from sparseact.masked.decoding import prefill
from sparseact.policies import TEAL, Griffin, SparseAct
from sparseact.sites import find_sites
from sparseact.testing import tiny_model, tiny_tokenizer

TEXT = "the quick brown fox jumps over the lazy dog. " * 50
IDS = torch.tensor([[1, 5, 6, 7, 8, 9]])


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def recipe(model):
    return TEAL(sparsity=0.5).calibrate(model, tiny_tokenizer(), TEXT)


@pytest.mark.parametrize("warm", [True, False])
@torch.no_grad()
def test_a_compiled_function_that_calls_the_model_is_sparse_inside_the_block(model, recipe, warm):
    torch._dynamo.reset()
    function = torch.compile(lambda ids: model(ids).logits, backend="eager")
    dense = model(IDS).logits
    if warm:
        torch.testing.assert_close(function(IDS), dense)
    with recipe(model) as density:
        found = function(IDS)
    with recipe(model):
        wanted = model(IDS).logits
    assert torch.equal(found, wanted)
    assert (density.achieved() > 0.3, torch.equal(found, dense)) == (True, False)
    torch.testing.assert_close(function(IDS), dense)


@torch.no_grad()
def test_a_module_around_the_model_that_is_compiled(model, recipe):
    class Around(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, ids):
            return self.inner(ids).logits * 2

    torch._dynamo.reset()
    around = torch.compile(Around(), backend="eager")
    around(IDS)
    with recipe(model) as density:
        found = around(IDS)
        torch.testing.assert_close(found, model(IDS).logits * 2)
    assert density.achieved() > 0.3


def test_a_block_without_a_forward_pass_says_so(model, recipe):
    with pytest.raises(SparseactError, match="the block ran no forward pass of this LlamaForCausalLM"), recipe(model):
        pass
    other = tiny_model("llama", seed=1)
    with pytest.raises(SparseactError, match="no forward pass"), recipe(model):
        other(IDS)
    with pytest.raises(KeyError), recipe(model):  # an error of the caller's own is not hidden
        raise KeyError


def test_inference_mode_around_what_differentiates(model):
    tokenizer = tiny_tokenizer()
    sites = find_sites(model, "mlp")
    wanted = sa.attribute(model, tokenizer, "Why?", max_new_tokens=3)
    recipe = SparseAct(sparsity=0.4).calibrate(model, tokenizer, TEXT)
    with torch.inference_mode():
        scores = sa.attribute(model, tokenizer, "Why?", max_new_tokens=3)
        assert torch.equal(scores["mlp.1"], wanted["mlp.1"])
        label = torch.tensor([[7, 8, 9]])
        prefix = prefill(model, IDS)
        found = attribute_in_one_pass(model, sites, prefix, label)
        path = path_gradients(model, sites[:1], prefix, label, found.keys_values, steps=2)
        again = SparseAct(sparsity=0.4).calibrate(model, tokenizer, TEXT)
        inside = tiny_model("llama")
        measure_interdependency(model, wanted, sparsity=(0.5,), cases=2)
    outside = attribute_in_one_pass(model, sites, prefill(model, IDS), torch.tensor([[7, 8, 9]]))
    assert torch.equal(found.gradient[sites[0]], outside.gradient[sites[0]])
    assert path[sites[0]].isfinite().all()
    with pytest.raises(InputError, match=r"made inside torch\.inference_mode"):
        sa.attribute(inside, tokenizer, "Why?", max_new_tokens=3)
    assert [gate.selector for gate in again.gates] == [gate.selector for gate in recipe.gates]


# Units that a prompt chooses, from all of it

PROMPT = [5 + i * 7 % 40 for i in range(20)]
FOLLOWS = [9, 10, 11]


@pytest.mark.parametrize("heads", [0.0, 0.5])
@pytest.mark.parametrize("ends", [(7,), (12, 15), (2, 4, 6, 18)])
@torch.no_grad()
def test_a_prompt_in_parts_chooses_as_the_whole_does(model, ends, heads):
    recipe = Griffin(sparsity=0.5, heads=heads).calibrate(model, tiny_tokenizer(), TEXT)
    whole, parts = ([*PROMPT], [*ends, len(PROMPT)])
    with recipe(model):
        wanted = _by_torch(model, [len(whole)])
        np.testing.assert_allclose(_by_torch(model, parts), wanted, atol=1e-4)
        np.testing.assert_allclose(_by_torch(model, [len(whole)]), wanted, atol=1e-4)  # a new text begins anew
    with Engine.from_model(model, recipe, dtype="f32", threads=1) as engine:
        for cut in ([len(whole)], parts, [len(whole)]):
            np.testing.assert_allclose(_by_engine(engine, cut), wanted, atol=1e-3)


def _by_torch(model, ends):
    cache, begin = DynamicCache(config=model.config), 0
    for end in ends:
        model(torch.tensor([PROMPT[begin:end]]), past_key_values=cache, use_cache=True)
        begin = end
    return np.stack(
        [
            model(torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits[0, 0].numpy()
            for token in FOLLOWS
        ]
    )


def _by_engine(engine, ends):
    engine.reset()
    begin = 0
    for end in ends:
        engine.prefill(PROMPT[begin:end])
        begin = end
    return np.stack([engine.step(token) for token in FOLLOWS])
