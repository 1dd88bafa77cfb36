"""Balanced blocks: sizes, what belongs together, and an assignment that nobody would leave."""

import pytest
import torch

from sparseact.calibration.blocks import _assigned, balanced_blocks


def test_neurons_that_are_large_together_are_one_block():
    """Four groups of eight, each large for tokens of its own; how large differs by neuron, and the groups are mixed."""
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(32) % 4
    on = (torch.arange(200)[:, None] % 4 == group).float()
    activity = on * (1 + 0.2 * torch.rand(32, generator=generator)) + 0.1 * torch.rand(200, 32, generator=generator)
    blocks = balanced_blocks(activity, 8)
    assert [len(set(group[blocks == block].tolist())) for block in range(4)] == [1] * 4


@pytest.mark.parametrize(("neurons", "block", "sizes"), [(48, 16, [16] * 3), (48, 32, [32, 16]), (10, 3, [3, 3, 3, 1])])
def test_all_blocks_but_the_last_are_full(neurons, block, sizes):
    activity = torch.rand(50, neurons, generator=torch.Generator().manual_seed(1))
    assert balanced_blocks(activity, block).bincount().tolist() == sizes


def test_no_two_neurons_would_both_rather_be_in_a_block_together_with_another_put_out():
    nearness = torch.rand(40, 5, generator=torch.Generator().manual_seed(2))
    sizes = torch.tensor([10, 10, 10, 5, 5])
    chosen = _assigned(nearness, sizes)
    assert torch.equal(chosen.bincount(), sizes)
    for neuron in range(40):
        for block in range(5):
            if nearness[neuron, block] > nearness[neuron, chosen[neuron]]:
                assert nearness[neuron, block] < nearness[chosen == block, block].min()
