"""Neurons that are large for the same tokens, in blocks of equal size: balanced k-means on how they co-activate.

MoEfication (Zhang et al. 2022, arXiv 2110.01786) and LTE (Zheng et al. 2024, arXiv 2402.06126) make experts of a
trained MLP so, by its rows or by what is on together. Here a neuron is the vector of how much it adds to the output,
token by token; distances come from the products of these vectors, so that a round costs no more for more tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 10
"""Of k-means; it ends before where no neuron moves."""


def balanced_blocks(activity: Tensor, block: int) -> Tensor:
    """The block of each neuron [neurons] int32, numbered from 0 in the order of their activity, the highest first.

    Args:
        activity: [tokens, neurons], how much each adds to the output.
        block: neurons of a block; the last one has what is left.
    """
    products = activity.mT @ activity
    sizes = torch.full((-(-len(products) // block),), block)
    sizes[-1] = len(products) - block * (len(sizes) - 1)
    found = _around_the_largest(products, sizes)
    for _ in range(ROUNDS):
        moved = _assigned(_nearness(products, found, sizes), sizes)
        if torch.equal(moved, found):
            break
        found = moved
    return found.int()


def _around_the_largest(products: Tensor, sizes: Tensor) -> Tensor:
    """Each block the largest neuron that is left, and those that are nearest to it."""
    square = products.diagonal()
    found = torch.full((len(products),), -1)
    for number, size in enumerate(sizes.tolist()):
        left = (found < 0).nonzero()[:, 0]
        first = left[square[left].argmax()]
        distance = square[left] - 2 * products[left, first]
        distance[left == first] = -torch.inf
        found[left[distance.argsort(stable=True)[:size]]] = number
    return found


def _nearness(products: Tensor, found: Tensor, sizes: Tensor) -> Tensor:
    """Minus the squared distance of each neuron to each block's mean [neurons, blocks], less what is the neuron's."""
    member = torch.nn.functional.one_hot(found, len(sizes)).to(products.dtype) / sizes
    to_mean = products @ member
    return 2 * to_mean - (member * to_mean).sum(dim=0)


def _assigned(nearness: Tensor, sizes: Tensor) -> Tensor:
    """Each neuron in a block that has room, such that no two would swap with one (Gale and Shapley's rounds)."""
    wishes = nearness.clone()
    while True:
        chosen = wishes.argmax(dim=1)
        crowded = (chosen.bincount(minlength=len(sizes)) > sizes).nonzero()[:, 0].tolist()
        if not crowded:
            return chosen
        for number in crowded:
            members = (chosen == number).nonzero()[:, 0]
            order = nearness[members, number].argsort(descending=True, stable=True)
            wishes[members[order[sizes[number] :]], number] = -torch.inf
