"""Leading bits of weights: against numbers by hand, the engine's own 8 bits, and weights that change."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from sparseact.masked.leading_bits import leading_bits, linear_of
from sparseact.models.formats import quantise


def test_the_numbers_of_one_block():
    weight = torch.tensor([[127.0, -127.0, 16.0, 15.0, 0.0, -1.0, -16.0, -17.0]]) / 64
    assert (leading_bits(weight, 4) * 64).tolist() == [[119.5, -120.5, 23.5, 7.5, 7.5, -8.5, -8.5, -24.5]]
    assert (leading_bits(weight, 2) * 64).tolist() == [[95.5, -96.5, 31.5, 31.5, 31.5, -32.5, -32.5, -32.5]]
    assert torch.equal(leading_bits(weight, 8), weight)


@pytest.mark.parametrize("inputs", [64, 80])
def test_with_the_other_bits_they_are_the_engines_8_bits(inputs):
    weight = torch.randn(5, inputs, generator=torch.Generator().manual_seed(0))
    q8 = quantise(weight.numpy(), "q8")
    scale = np.repeat(q8.scales.astype(np.float32), 32, axis=1)[:, :inputs]
    high, low = np.divmod(q8.codes[:, :inputs].astype(np.int32), 16)
    assert low.min() == 0
    assert low.max() == 15
    np.testing.assert_array_equal(high * 16 + low, q8.codes[:, :inputs])
    np.testing.assert_array_equal(leading_bits(weight, 4).numpy(), (high * 16 + np.float32(7.5)) * scale)


def test_a_block_of_zeros_is_zeros():
    assert not leading_bits(torch.zeros(3, 32), 4).any()


def test_a_linear_reads_its_weight_as_it_is_now():
    module, x = nn.Linear(64, 8), torch.randn(3, 64)
    with torch.no_grad():
        before = linear_of(module, x, 4)
        assert torch.equal(before, linear(x, leading_bits(module.weight, 4), module.bias))
        assert torch.equal(linear_of(module, x, 4), before)
        assert torch.allclose(linear_of(module, x, 8), module(x), atol=0.05)
    module(x).square().sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    after = linear_of(module, x, 4)
    assert not torch.allclose(after, before, atol=1e-3)
    assert torch.equal(after, linear(x, leading_bits(module.weight, 4), module.bias))
    module.weight = nn.Parameter(torch.zeros(8, 64))
    assert torch.equal(linear_of(module, x, 4), module.bias.expand(3, 8))


def test_weights_that_lie_transposed_have_their_blocks_along_the_inputs():
    module, x = Conv1D(8, 64), torch.randn(3, 64)
    assert torch.equal(linear_of(module, x, 4), linear(x, leading_bits(module.weight.T, 4), module.bias))
