"""y = sum_b w_b Down_b(act(Gate_b x) * Up_b x) over the blocks b that are on: as one wide masked FFN, or gathered."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from sparseact.errors import InputError
from sparseact.training.routers import Router, Routing


class BlockSparseFFN(nn.Module):
    """A gated FFN whose neurons stand in contiguous blocks that a router switches.

    A mixture of experts is a wide FFN with a block-sparse h, so `dense` and `gathered` are equal; what differs is what
    they read.

    Attributes:
        gate, up: [blocks * block, hidden].
        down: [hidden, blocks * block].
        shift: [blocks * block], what the neurons of a block that is off count as.
    """

    def __init__(self, hidden: int, blocks: int, block: int, router: Router) -> None:
        super().__init__()
        self.blocks, self.block, self.router = blocks, block, router
        self.gate = nn.Parameter(torch.randn(blocks * block, hidden) * hidden**-0.5)
        self.up = nn.Parameter(torch.randn(blocks * block, hidden) * hidden**-0.5)
        self.down = nn.Parameter(torch.randn(hidden, blocks * block) * (blocks * block) ** -0.5)
        self.shift = nn.Parameter(torch.zeros(blocks * block))
        self.last: Routing | None = None

    @classmethod
    def from_linears(
        cls, gate: Tensor, up: Tensor, down: Tensor, order: Tensor, block: int, router: Router
    ) -> BlockSparseFFN:
        """Of a dense FFN with its neurons put into another order, which leaves its output as it was.

        Args:
            gate, up: [neurons, hidden].
            down: [hidden, neurons].
            order: [neurons], a permutation; each `block` of it is a block.
            block: neurons of a block.
            router: from hidden to blocks.

        Raises:
            InputError: blocks do not divide the neurons, or `order` is no permutation.
        """
        neurons, hidden = gate.shape
        if neurons % block:
            raise InputError(f"block: {neurons} neurons are not a multiple of {block}")
        if not torch.equal(order.sort().values, torch.arange(neurons)):
            raise InputError(f"order: not a permutation of {neurons} neurons")
        made = cls(hidden, neurons // block, block, router)
        with torch.no_grad():
            for held, weight in ((made.gate, gate[order]), (made.up, up[order]), (made.down, down[:, order])):
                held.copy_(weight)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Dense execution, which trains: all blocks are computed and those that are off replaced. x: [..., hidden]."""
        self.last = routing = self.router(x)
        h = (silu(linear(x, self.gate)) * linear(x, self.up)).unflatten(-1, (self.blocks, self.block))
        kept = torch.where(routing.on[..., None], h * routing.weights[..., None], self.shift.view(self.blocks, -1))
        return linear(kept.flatten(-2), self.down)

    @torch.no_grad()
    def gathered(self, x: Tensor) -> tuple[Tensor, int]:
        """The same, of all tokens [tokens, hidden] at once, reading only the union of the blocks that they have on.

        Returns:
            The outputs, and how many neurons were read.
        """
        routing = self.router(x)
        union = routing.on.any(dim=0).nonzero()[:, 0]
        rows = (union[:, None] * self.block + torch.arange(self.block)).flatten()
        h = silu(linear(x, self.gate[rows])) * linear(x, self.up[rows])
        h = h.unflatten(-1, (len(union), self.block)) * routing.weights[:, union, None]
        shift = self.shift.view(self.blocks, self.block)[union]
        kept = torch.where(routing.on[:, union, None], h - shift, 0).flatten(-2)
        return linear(kept, self.down[:, rows], self.down @ self.shift), len(rows)
