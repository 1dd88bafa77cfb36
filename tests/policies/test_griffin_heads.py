"""GRIFFIN's heads: what is chosen, what it saves, and batches, against slow references."""

import math

import pytest
import torch
from tiny_mlps import held_out_ids, letters, model_of
from transformers.pytorch_utils import Conv1D

from sparseact.errors import InputError
from sparseact.masked.apply import run_sparse
from sparseact.masked.decoding import decode_greedily, pad_left, prefill
from sparseact.policies import POLICIES
from sparseact.sites import capture, dissect, find_sites, weight_bytes
from sparseact.testing import tiny_model, tiny_tokenizer


def _heads_off(site, z):
    """The half of the heads that mattered less over a prompt, from what they put out [tokens, heads, head_dim]."""
    scores = [
        math.sqrt(sum(float(token[head].square().sum() / token.square().sum()) for token in z.double()))
        for head in range(site.units)
    ]
    return sorted(range(site.units), key=scores.__getitem__)[: site.units // 2]


def _only_theirs(model, family, site, head):
    """Views of the weights that only one head uses: its rows of q and its columns of o."""
    layout = dissect(model)[0][site.layer].layout
    first, out = model.get_submodule(f"{site.block}.{layout.attention_in[0]}"), model.get_submodule(site.module)
    start = head * site.unit_size * (3 if "neox" in family else 1)  # there each head's q, k and v are one run
    rows = (first.weight.T if isinstance(first, Conv1D) else first.weight)[start : start + site.unit_size]
    columns = (out.weight if isinstance(out, Conv1D) else out.weight.T)[head * site.unit_size :][: site.unit_size]
    return rows, columns


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3", "opt", "gpt2", "gpt-neox"])
def test_what_heads_that_are_off_save_is_not_needed(family):
    """Noise in the weights that are not read changes nothing, and they are as many bytes as are counted."""
    model, sites = tiny_model(family), find_sites(model_of(family), "heads")
    recipe = POLICIES["griffin"](sparsity=0.5, heads=1.0).calibrate(model, tiny_tokenizer(), letters(0))
    gates = [gate for gate in recipe.gates if gate.site.kind == "heads"]
    assert [gate.site for gate in gates] == sites
    prompt, label = held_out_ids(1, 30).split([18, 12], dim=1)

    def decode():
        start = prefill(model, torch.cat([prompt, label[:, :1]], dim=1))
        for view in noise:
            view.add_(torch.randn_like(view))
        steps = [model(**start.inputs(label[:, step, None])).logits for step in range(label.shape[1])]
        return torch.cat(steps, dim=1)

    with torch.no_grad():
        noise = []
        dense = decode()
        with capture(model, sites) as seen:
            model(prompt)
        with run_sparse(model, gates, recipe.phases) as density:
            clean = decode()
            noise = [
                view
                for site in sites
                for head in _heads_off(site, seen[site][0])
                for view in _only_theirs(model, family, site, head)
            ]
            assert torch.equal(decode(), clean)
    assert not torch.allclose(clean, dense, atol=1e-2)
    skipped = 4 * sum(view.numel() for view in noise)
    assert density.bytes_per_token("decode") == weight_bytes(model) - skipped
    assert density.bytes_per_token("prefill") == weight_bytes(model)
    assert density.achieved("decode") == 0.5


def test_heads_in_a_padded_batch_are_those_of_each_text_alone():
    model = model_of("llama")
    recipe = POLICIES["griffin"](sparsity=0.5, heads=0.5).calibrate(model, tiny_tokenizer(), letters(0))
    prompts = [held_out_ids(1, width) for width in (25, 7, 14)]
    with recipe(model):
        together = decode_greedily(model, prefill(model, *pad_left(prompts, 0)), 16, frozenset())
    for prompt, text in zip(prompts, together, strict=True):
        with recipe(model):
            (alone,) = decode_greedily(model, prefill(model, prompt), 16, frozenset())
        assert torch.equal(text, alone)


@pytest.mark.parametrize("heads", [-0.5, 1.5, math.nan])
def test_a_share_of_heads_out_of_range_is_refused(heads):
    with pytest.raises(InputError, match=r"^heads: .* is not between 0 and 1$"):
        POLICIES["griffin"](sparsity=0.5, heads=heads).calibrate(model_of("llama"), tiny_tokenizer(), letters(0))
