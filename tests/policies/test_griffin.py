"""GRIFFIN on neurons: chosen by the prompt, kept while decoding."""

import math

import pytest
import torch
from tiny_mlps import held_out_ids, model_of, recipe_of

from sparseact.errors import SparseactError
from sparseact.masked.decoding import decode_greedily, pad_left, prefill
from sparseact.sites import capture, find_sites, on_units


@pytest.mark.parametrize("family", ["llama", "mobillama", "phi3", "opt", "gpt2", "gpt-neox"])
def test_griffin_decodes_as_a_masked_dense_model(family):
    model, sites = model_of(family), find_sites(model_of(family), "mlp")
    prompt, label = held_out_ids(2, 30).split([18, 12], dim=1)
    with torch.no_grad(), capture(model, sites) as seen:
        dense = model(prompt).logits
    kept = {}
    for site in sites:
        z = seen[site][..., 0].double()
        share = torch.stack([torch.stack([token / math.sqrt(token.square().sum()) for token in text]) for text in z])
        order = share.square().sum(dim=1).argsort(dim=-1, descending=True)[:, : site.units // 2]
        kept[site] = torch.zeros(len(z), site.units, dtype=torch.bool).scatter_(-1, order, value=True)

    def decode(caches):
        steps = [model(**caches.inputs(label[:, step, None])).logits for step in range(label.shape[1])]
        return torch.cat(steps, dim=1)

    with torch.no_grad():
        with recipe_of("griffin", family)(model) as density:
            start = prefill(model, torch.cat([prompt, label[:, :1]], dim=1))
            sparse = decode(start)
        start = prefill(model, torch.cat([prompt, label[:, :1]], dim=1))
        with on_units(model, sites, lambda site, h: h * kept[site][:, None, :, None]):
            reference = decode(start)
        start = prefill(model, torch.cat([prompt, label[:, :1]], dim=1))
        far = decode(start)
        with recipe_of("griffin", family)(model):
            assert torch.equal(model(prompt).logits, dense), "the prompt runs dense"
    assert torch.allclose(sparse, reference, atol=1e-5)
    assert not torch.allclose(sparse, far, atol=1e-2)
    assert density.achieved("decode") == 0.5
    assert density.achieved("prefill") == 0


def test_griffin_in_a_padded_batch_is_griffin_alone():
    model, recipe = model_of("llama"), recipe_of("griffin", "llama")
    prompts = [held_out_ids(1, width) for width in (25, 7, 14)]
    stop = frozenset()
    with recipe(model):
        together = decode_greedily(model, prefill(model, *pad_left(prompts, 0)), 16, stop)
    for prompt, text in zip(prompts, together, strict=True):
        with recipe(model):
            (alone,) = decode_greedily(model, prefill(model, prompt), 16, stop)
        assert torch.equal(text, alone)


def test_griffin_without_its_prompt_says_so():
    model, ids = model_of("llama"), held_out_ids(1, 12)
    start = prefill(model, ids)
    with pytest.raises(SparseactError, match="the prompt was not run inside"), recipe_of("griffin", "llama")(model):
        model(**start.inputs(start.last))
