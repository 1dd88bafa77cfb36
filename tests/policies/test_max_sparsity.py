"""The highest level within an increase of perplexity (PPL-p%)."""

import math
from functools import cache

import pytest
import torch
from tiny_mlps import letters, model_of

from sparseact.errors import InputError
from sparseact.policies import POLICIES, max_sparsity
from sparseact.testing import tiny_tokenizer


@cache
def _own_text() -> str:
    """Text that the tiny Llama writes itself, so that the dense model is the best at it."""
    model, tokenizer = model_of("llama"), tiny_tokenizer()
    special = [0, 1, 2, 3, 63]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ids = model.generate(
            torch.ones(96, 1, dtype=torch.long), do_sample=True, top_k=0, max_new_tokens=120, suppress_tokens=special
        )
    return "".join(tokenizer.convert_ids_to_tokens(ids[:, 1:].flatten().tolist()))


@pytest.mark.parametrize("name", ["cett", "teal", "griffin"])
def test_the_highest_level_within_the_increase_is_found(name):
    model, tokenizer, policy = model_of("llama"), tiny_tokenizer(), POLICIES[name]
    recipe = max_sparsity(model, tokenizer, policy, _own_text(), 0.1, tolerance=0.02, context=64)
    found = recipe.meta["perplexity_increase"]
    assert found["asked"] == 0.1
    assert 0 <= found["found"] <= 0.1
    assert 0 < recipe.sparsity < 0.98

    looser = max_sparsity(model, tokenizer, policy, _own_text(), 0.5, tolerance=0.02, context=64)
    assert looser.sparsity > recipe.sparsity
    assert looser.meta["perplexity_increase"]["found"] > 0.1


def test_the_increase_is_met_closely_where_the_loss_is_smooth():
    recipe = max_sparsity(
        model_of("llama"), tiny_tokenizer(), POLICIES["cett"], _own_text(), 0.05, tolerance=1e-3, context=64
    )
    gap = math.log1p(recipe.meta["perplexity_increase"]["found"])
    assert gap == pytest.approx(math.log1p(0.05), abs=2e-3)


def test_a_negative_increase_is_refused():
    with pytest.raises(InputError, match=r"max_perplexity_increase: -0\.1 is not 0 or more"):
        max_sparsity(model_of("llama"), tiny_tokenizer(), POLICIES["cett"], letters(0), -0.1)
