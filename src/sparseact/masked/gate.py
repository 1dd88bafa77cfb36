"""What a gate computes on a model of torch, beside its score: signals, what is kept, what makes up for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparseact.masked.leading_bits import linear_of
from sparseact.masked.selectors import topk_mask
from sparseact.recipes.gate import Gate, Signal, Values

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def on_device(gates: Sequence[Gate], device: torch.device, dtype: torch.dtype) -> list[Gate]:
    """The same gates with tensors on a device, and what several of them share still shared."""
    known: dict[int, Tensor] = {}

    def moved(held: Values) -> Tensor:
        if id(held) not in known:
            # What was read from disk is copied: products round by how memory is aligned, and torch aligns its own.
            tensor = held if isinstance(held, Tensor) else torch.tensor(held)
            known[id(held)] = tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
        return known[id(held)]

    return [gate.with_tensors({name: moved(held) for name, held in gate.tensors().items()}) for gate in gates]


def signal_of(signal: Signal, output: Tensor) -> Tensor:
    """The signal [..., units] in the output of its linear."""
    index, parts = signal.part
    value = output.chunk(parts, dim=-1)[index]
    if signal.factor != 1:
        value = value * signal.factor
    if signal.own_sparsity:
        value = _without_low(value, signal.own_sparsity)
    if not signal.activation:
        return value
    from transformers.activations import ACT2FN

    activated: Tensor = ACT2FN[signal.activation](value)
    return activated


def _without_low(value: Tensor, share: float) -> Tensor:
    """What is above a quantile of the normal distribution of a token's mean and deviation, as Gemma 3n computes it."""
    quantile = torch.special.ndtri(torch.tensor(share, dtype=torch.float32)).to(value)
    cut = value.mean(dim=-1, keepdim=True) + value.std(dim=-1, keepdim=True, unbiased=False) * quantile
    return (value - cut).relu()


def rotate(gate: Gate, x: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
    """The units in the gate's basis, without the weight of the norm before if that is stored with the linear's."""
    if gate.basis is None:
        return x
    return (x if gate.norm is None else x / gate.norm.to(x.dtype)) @ gate.basis.to(x.dtype)


def keep(
    gate: Gate, x: Float[Tensor, "*batch units"], on: Bool[Tensor, "*batch units"]
) -> Float[Tensor, "*batch units"]:
    """The linear's input with the units that are off replaced; where all are on, `x` itself."""
    off = torch.zeros((), dtype=x.dtype) if gate.shift is None else gate.shift.to(x.dtype)
    kept = torch.where(on, rotate(gate, x), off)
    if gate.basis is not None:
        back = kept @ gate.basis.mT.to(x.dtype)
        kept = torch.where(on.all(dim=-1, keepdim=True), x, back if gate.norm is None else back * gate.norm.to(x.dtype))
    return kept


def correction(gate: Gate, dropped: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch outputs"]:
    """What the low-rank compensation adds to the output for `dropped` = x minus what was kept."""
    assert gate.low_rank is not None
    left, right = (factor.to(dropped.dtype) for factor in gate.low_rank)
    return (dropped @ right.mT) @ left.mT


def predict(gate: Gate, hidden: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch units"]:
    """The predicted signal, after the signal's activation."""
    assert gate.predictor is not None
    down, up, bias = (factor.to(hidden.dtype) for factor in gate.predictor)
    return signal_of(gate.signal, (hidden @ down.mT) @ up.mT + bias)


def route(gate: Gate, hidden: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch units"]:
    """The router's score of each unit's block, after the signal's activation."""
    assert gate.router is not None
    weight, bias = (factor.to(hidden.dtype) for factor in gate.router)
    return signal_of(gate.signal, hidden @ weight.mT + bias)[..., gate.blocks]


def pass_to_router(
    gate: Gate, hidden: Float[Tensor, "*batch inputs"], x: Float[Tensor, "*batch units"]
) -> Float[Tensor, "*batch units"]:
    """0, whose gradient reaches the router as if its score, not the choice by it, were what a unit counts (1308.3432).

    Added to what is kept. A score learns what more of its block would change, whether the block is on or off.

    Args:
        gate: with a `routed` signal.
        hidden: what the router reads.
        x: the units, before they are masked.
    """
    score, units = route(gate, hidden), x.detach()
    worth = units if gate.shift is None else units - gate.shift.detach().to(x.dtype)
    return (score - score.detach()) * worth


def guess(gate: Gate, linears: Mapping[str, Any], x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch units"]:
    """The signal where only the leading bits of the weights, or the token's largest inputs, are known.

    Args:
        gate: with a `guessed` signal.
        linears: the signal's modules by name; they are run past their hooks.
        x: their inputs.
    """
    signals = [part for part in (gate.signal, gate.signal.times) if part is not None]
    if gate.signal.bits:
        with torch.no_grad():
            guesses = [signal_of(part, linear_of(linears[part.module], x, gate.signal.bits)) for part in signals]
            return torch.stack(guesses).prod(dim=0)
    return _expected_size(gate, signals, linears, x)


def _expected_size(gate: Gate, signals: Sequence[Signal], linears: Mapping[str, Any], x: Tensor) -> Tensor:
    """The root mean square of the signal where only the token's largest inputs are known.

    E[(gate up)^2] = (gate^2 + error^2) (up^2 + error^2) of the guesses, which takes their errors as independent.
    """
    assert gate.guess_error is not None
    largest = x * topk_mask(x.abs(), 1 - gate.signal.look)
    squares = [
        signal_of(part, linears[part.module].forward(largest)).square() + error.to(x.dtype).square()
        for part, error in zip(signals, gate.guess_error, strict=True)
    ]
    return torch.stack(squares).prod(dim=0).sqrt()
