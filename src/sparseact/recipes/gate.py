"""A gate: one site's run-time rule, score = |signal - shift| * scale, then a selector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sparseact.recipes.selectors import Selector, topk_mask
from sparseact.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

TENSORS = ("scale", "shift", "basis", "low_rank", "predictor", "guess_error")
"""Attributes of a gate that are a tensor or several."""


@dataclass(frozen=True)
class Signal:
    """What a score is made of, and must be computed densely before it exists.

    Attributes:
        reads: `input`: the units themselves; `output`: what another linear of the block puts out,
            such as gate or up; `predicted`: a low-rank guess from another linear's input; `guessed`: what that
            linear puts out if it reads only the largest of its inputs.
        module: dotted name of that linear.
        part: (index, parts) of its outputs, for fused linears.
        activation: name of the activation to apply, as transformers calls it; none if empty.
        look: of a guess, the share of the inputs that it reads.
        times: of a guess, another one of the same inputs that it is multiplied by: up.
    """

    reads: Literal["input", "output", "predicted", "guessed"] = "input"
    module: str = ""
    part: tuple[int, int] = (0, 1)
    activation: str = ""
    look: float = 1.0
    times: Signal | None = None

    def of(self, output: Tensor) -> Tensor:
        """The signal [..., units] in that linear's output."""
        index, parts = self.part
        value = output.chunk(parts, dim=-1)[index]
        return _activations()[self.activation](value) if self.activation else value


@dataclass(frozen=True)
class Gate:
    """Which of a site's units are read for a token.

    Attributes:
        site: the units; `site.unit_bytes` is what this gate saves when one of them is off.
        selector: from scores to mask.
        signal: what the score is made of.
        frozen: the mask is chosen once, from the prompt, and kept while decoding (GRIFFIN).
        scale, shift: [units]; 1 and 0 if None. A unit that is off is worth `shift`, not 0, whose
            share of the output is a bias.
        basis: [units, units] orthonormal; the units are x @ basis, and the weight is stored as W @ basis.
        basis_shares: how many gates have this basis: linears that read the same input rotate it once.
        low_rank: ([outputs, rank], [rank, units]); put in for what is off.
        predictor: ([rank, inputs], [units, rank], bias [units]) of a `predicted` signal.
        guess_error: [1 or 2, units], how far a `guessed` signal and what it is multiplied by are off: root
            mean squares.
    """

    site: Site
    selector: Selector
    signal: Signal = Signal()
    frozen: bool = False
    scale: Tensor | None = None
    shift: Tensor | None = None
    basis: Tensor | None = None
    basis_shares: int = 1
    low_rank: tuple[Tensor, Tensor] | None = None
    predictor: tuple[Tensor, Tensor, Tensor] | None = None
    guess_error: Tensor | None = None

    def rotate(self, x: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
        """The units in the gate's basis."""
        return x if self.basis is None else x @ self.basis.to(x.dtype)

    def score(self, signal: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
        """Higher is kept."""
        score = (signal if self.shift is None else signal - self.shift.to(signal.dtype)).abs()
        return score if self.scale is None else score * self.scale.to(score.dtype)

    def keep(self, x: Float[Tensor, "*batch units"], on: Bool[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
        """The linear's input with the units that are off replaced; where all are on, `x` itself."""
        units = self.rotate(x)
        off = torch.zeros((), dtype=x.dtype) if self.shift is None else self.shift.to(x.dtype)
        kept = torch.where(on, units, off)
        if self.basis is not None:
            kept = torch.where(on.all(dim=-1, keepdim=True), x, kept @ self.basis.mT.to(x.dtype))
        return kept

    def correction(self, dropped: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch outputs"]:
        """What the low-rank compensation adds to the output for `dropped` = x minus what was kept."""
        assert self.low_rank is not None
        left, right = (factor.to(dropped.dtype) for factor in self.low_rank)
        return (dropped @ right.mT) @ left.mT

    def predict(self, hidden: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch units"]:
        """The predicted signal, after the signal's activation."""
        assert self.predictor is not None
        down, up, bias = (factor.to(hidden.dtype) for factor in self.predictor)
        return self.signal.of((hidden @ down.mT) @ up.mT + bias)

    def guess(self, linears: Mapping[str, Any], x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch units"]:
        """The root mean square of the signal where only the token's largest inputs are known.

        E[(gate up)^2] = (gate^2 + error^2) (up^2 + error^2) of the guesses, which takes their errors as independent.

        Args:
            linears: the signal's modules by name; they are run past their hooks.
            x: their inputs.
        """
        assert self.guess_error is not None
        signals = [part for part in (self.signal, self.signal.times) if part is not None]
        largest = x * topk_mask(x.abs(), 1 - self.signal.look)
        squares = [
            part.of(linears[part.module].forward(largest)).square() + error.to(x.dtype).square()
            for part, error in zip(signals, self.guess_error, strict=True)
        ]
        return torch.stack(squares).prod(dim=0).sqrt()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, those of tuples numbered."""
        found: dict[str, Tensor] = {}
        for name in TENSORS:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                found[name] = value
            elif value is not None:
                found |= {f"{name}.{index}": part for index, part in enumerate(value)}
        return found

    def extra_bytes(self, element_size: int) -> float:
        """Bytes that this gate itself reads for each token: adapters, low-rank factors, predictors.

        A basis is read once by all gates that share it, and there is no way back to pay for: it is in the
        stored weight. A scale and a shift are folded into thresholds and bias, and the inputs that a guess reads are
        not among the site's bytes.
        """
        sizes = {name: tensor.numel() for name, tensor in self.tensors().items()}
        read = sum(size for name, size in sizes.items() if name.startswith(("low_rank", "predictor")))
        return element_size * (read + sizes.get("basis", 0) / self.basis_shares)

    def to(self, device: torch.device) -> Gate:
        """The same gate with its tensors on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else tuple(part.to(device) for part in value)
            for name in TENSORS
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


def _activations() -> Mapping[str, Callable[[Tensor], Tensor]]:
    """By transformers' names; imported late, for the engine reads recipes without transformers."""
    from transformers.activations import ACT2FN

    return ACT2FN
