"""What masks are like: density, density of chunks, reuse, dead units. All take bool masks [..., tokens, units]."""

from __future__ import annotations

import torch
from torch import Tensor


def density(on: Tensor) -> float:
    """mean(on)."""
    return float(on.float().mean())


def chunk_density(on: Tensor, length: int) -> float:
    """|union of `length` consecutive tokens| / units, mean over chunks: 1 - CLS (BlockFFN, arXiv 2507.08771).

    What reading a chunk at once reads. Tokens that do not fill a chunk are left out.
    """
    whole = on.shape[-2] // length * length
    chunks = on[..., :whole, :].unflatten(-2, (-1, length))
    return density(chunks.any(dim=-2))


def expected_chunk_density(share: float, length: int) -> float:
    """1 - (1 - share)^length: what it would be if tokens chose independently; the difference is locality."""
    return 1 - (1 - share) ** length


def reuse(on: Tensor) -> float:
    """Mean over neighbouring tokens of |S_t and S_{t+1}| / |S_t|; tokens with nothing on are left out."""
    here, following = on[..., :-1, :], on[..., 1:, :]
    count = here.sum(dim=-1)
    shared = (here & following).sum(dim=-1)[count > 0] / count[count > 0]
    return float(shared.mean())


def dead_rates(on: Tensor) -> tuple[float, float]:
    """(static, dynamic): the share of units that are off for every token, and of entries that are off of the others.

    arXiv 2212.06145 counts both as dead; they add to 1 - density.
    """
    flat = on.flatten(0, -2)
    never = ~flat.any(dim=0)
    static = float(never.float().mean())
    return static, float((~flat & ~never).float().mean())


def frequencies(on: Tensor) -> Tensor:
    """How often each unit is on: [units]."""
    return on.flatten(0, -2).to(torch.float32).mean(dim=0)
