"""Blocks of neurons that a router switches on whole."""

import pytest
import torch
from tiny_mlps import held_out_ids, letters, model_of, recipe_of, watch

from sparseact.errors import InputError
from sparseact.policies import POLICIES
from sparseact.testing import tiny_tokenizer


def test_whole_blocks_are_on():
    recipe = recipe_of("block-router", "llama")
    layers, _ = watch(model_of("llama"), recipe, held_out_ids(1, 60))
    for gate, (_, h, _) in zip(recipe.gates, layers, strict=True):
        assert gate.blocks.bincount().tolist() == [4] * 12
        off = h[1:] == gate.shift
        by_block = torch.stack([off[:, gate.blocks == block].sum(dim=-1) for block in range(12)], dim=-1)
        assert set(by_block.unique().tolist()) == {0, 4}


@pytest.mark.parametrize("block", [0, 48])
def test_the_block_is_checked(block):
    with pytest.raises(InputError, match=f"block: {block} is not between 1 and 47, of mlp.0"):
        POLICIES["block-router"](sparsity=0.5, block=block).calibrate(model_of("llama"), tiny_tokenizer(), letters(0))
