"""Orthonormal bases for the inputs of linears, and which linears read the same input.

A rotated linear stores W @ basis and reads x @ basis, so y = (W @ basis) (x @ basis) exactly, for any
norm before it and tied embeddings too. Linears that read the same input share one basis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparseact.errors import InputError
from sparseact.sites import Site, dissect

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DAMPING = 0.01
"""Share of the mean variance added to every direction, as in LaRoSA's code."""


def shared_inputs(model: PreTrainedModel, sites: Sequence[Site]) -> list[list[Site]]:
    """The channels that read the residual stream, those of one input together: q, k, v; gate, up."""
    by_module = {site.module: site for site in sites}
    return [
        [by_module[f"{block.path}.{name}"] for name in names]
        for block in dissect(model)[0]
        for names in (block.layout.attention_in, block.layout.mlp_in)
        if names
    ]


def folded_norms(model: PreTrainedModel, groups: Sequence[Sequence[Site]], ids: Tensor) -> list[Tensor]:
    """Weights [units] of the RMSNorm that each group reads, where a rotation of the residual stream can be absorbed.

    A normed stream that is rotated is the rotated stream normed, but for the norm's weight, which is then stored with
    the linears that read it. That is exact if every norm of a block is an RMSNorm whose output such linears read; one
    on what a block adds (Gemma 2 and 3) would have to know the stream's own directions.

    Args:
        groups: linears that read the same input.
        ids: a few tokens [1, tokens], to see which module each group reads.

    Raises:
        InputError: the blocks are made otherwise, or a weight is 0, behind which an input could not be seen.
    """
    blocks, _ = dissect(model)
    if len(groups) != 2 * len(blocks):
        raise InputError("absorbed: blocks that lack attention or an MLP absorb no rotation")
    norms = {f"{block.path}.{name}": norm for block in blocks for name, norm in block.module.named_children()}
    norms = {name: module for name, module in norms.items() if getattr(getattr(module, "weight", None), "ndim", 0) == 1}
    firsts = [group[0].module for group in groups]
    read = _norms_read(model, norms, firsts, ids)
    odd = sorted(norms.keys() - read.values()) + [name for name in firsts if name not in read]
    if odd:
        raise InputError(f"absorbed: {odd[0]} is no norm before linears or reads none, so that no rotation is absorbed")
    return [
        _weight_of_norm(norms[read[name]], group[0].units, read[name])
        for name, group in zip(firsts, groups, strict=True)
    ]


def _norms_read(
    model: PreTrainedModel, norms: dict[str, nn.Module], linears: Sequence[str], ids: Tensor
) -> dict[str, str]:
    """Of linears, the norm whose output each reads, for those that read one."""
    put_out: dict[str, Tensor] = {}
    read: dict[str, str] = {}

    def put(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            put_out[name] = output

        return hook

    def reads(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            for norm, output in put_out.items():
                if output is inputs[0]:
                    read[name] = norm

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in norms.items():
            stack.callback(module.register_forward_hook(put(name)).remove)
        for name in linears:
            stack.callback(model.get_submodule(name).register_forward_pre_hook(reads(name)).remove)
        model(ids.to(model.device), use_cache=False)
    return read


def _weight_of_norm(norm: nn.Module, units: int, name: str) -> Tensor:
    """What an RMSNorm multiplies with, however it stores that."""
    ones = torch.ones(1, units, device=next(norm.parameters()).device)
    x = torch.linspace(-1, 2, units, device=ones.device)[None]
    with torch.no_grad():
        weight, out = norm(ones)[0].float(), norm(x).float()
    if not weight.all():
        raise InputError(f"absorbed: a weight of {name} is 0, so that the input behind it cannot be seen")
    if not torch.allclose(out[0], weight * x[0] / x.square().mean().sqrt(), rtol=1e-2, atol=1e-4):
        raise InputError(f"absorbed: {name} is no RMSNorm, so that no rotation is absorbed")
    return weight


def pca_basis(x: Tensor) -> Tensor:
    """Principal directions [units, units] of x [tokens, units], around 0, the widest first."""
    x = x.double()
    gram = x.T @ x
    gram.diagonal().add_(DAMPING * gram.diagonal().mean())
    return torch.linalg.eigh(gram).eigenvectors.flip(-1).float().contiguous()


def svd_basis(weight: Tensor) -> Tensor:
    """Right singular vectors [inputs, inputs] of a weight [outputs, inputs], the largest first.

    With fewer outputs than inputs the last directions span what the weight does not read; which of
    them is first means nothing.
    """
    return torch.linalg.svd(weight.double()).Vh.T.float().contiguous()
