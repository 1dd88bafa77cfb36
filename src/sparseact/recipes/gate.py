"""A gate: one site's run-time rule, score = |signal - shift| * scale, then a selector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from sparseact.models.formats import Array
from sparseact.recipes.selection import Selection
from sparseact.recipes.selectors import Selector
from sparseact.recipes.site import Site

Values = Any
"""An array of NumPy (of a recipe that was read from disk) or a tensor of torch (of one that was just calibrated)."""

TENSORS = {
    "scale": 1,
    "shift": 1,
    "basis": 1,
    "norm": 1,
    "low_rank": 2,
    "predictor": 3,
    "guess_error": 1,
    "router": 2,
    "blocks": 1,
}
"""Attributes of a gate that are values, and how many."""


@dataclass(frozen=True)
class Signal:
    """What a score is made of, and must be computed densely before it exists.

    Attributes:
        reads: `input`: the units themselves; `output`: what another linear of the block puts out,
            such as gate or up; `predicted`: a low-rank guess from another linear's input; `routed`: a router's score
            of the unit's block, from that input too; `guessed`: what that linear puts out if it reads only the largest
            of its inputs, or the leading bits of its weights.
        module: dotted name of that linear.
        part: (index, parts) of its outputs, for fused linears.
        activation: name of the activation to apply, as transformers calls it; none if empty.
        factor: on the outputs, before the activation.
        own_sparsity: share of the outputs that the model itself leaves off before the activation, by a quantile of the
            normal distribution: relu(output - mean - quantile * deviation) over a token's outputs (Gemma 3n).
        look: of a guess, the share of the inputs that it reads.
        bits: of a guess, how many leading bits of each weight it reads, of 8; 0 if it reads whole weights.
        times: of a guess, another one of the same inputs that it is multiplied by: up.
    """

    reads: Literal["input", "output", "predicted", "routed", "guessed"] = "input"
    module: str = ""
    part: tuple[int, int] = (0, 1)
    activation: str = ""
    factor: float = 1.0
    own_sparsity: float = 0.0
    look: float = 1.0
    bits: int = 0
    times: Signal | None = None

    @property
    def is_units(self) -> bool:
        """Whether it is the units, or a guess with their sign, and not another number for each of them."""
        return self.reads == "input" or self.bits > 0


@dataclass(frozen=True)
class Gate:
    """Which of a site's units are read for a token.

    Attributes:
        site: the units; `site.unit_bytes` is what this gate saves when one of them is off.
        selector: from scores to mask.
        signal: what the score is made of.
        frozen: the mask is chosen once, from the prompt, and kept while decoding (GRIFFIN).
        scale, shift: [units]; 1 and 0 if None. A unit that is off is worth `shift`, not 0, whose
            share of the output is a bias. It is part of the score where the signal is the units (`Signal.is_units`).
        basis: [units, units] orthonormal; the units are x @ basis, and the weight is stored as W @ basis.
        basis_shares: how many gates have this basis: linears that read the same input rotate it once.
        norm: [units], beside a basis: the weight of the RMSNorm before, which is stored with the linear's: the units
            are (x / norm) @ basis, and the weight is stored as (W * norm) @ basis.
        low_rank: ([outputs, rank], [rank, units]); put in for what is off.
        predictor: ([rank, inputs], [units, rank], bias [units]) of a `predicted` signal.
        router: ([blocks, inputs], bias [blocks]) of a `routed` signal.
        blocks: [units] integers, the block of each unit, for a `routed` signal: which weights would lie together.
        guess_error: [1 or 2, units], how far a `guessed` signal and what it is multiplied by are off: root
            mean squares.
    """

    site: Site
    selector: Selector
    signal: Signal = Signal()
    frozen: bool = False
    scale: Values | None = None
    shift: Values | None = None
    basis: Values | None = None
    basis_shares: int = 1
    norm: Values | None = None
    low_rank: tuple[Values, Values] | None = None
    predictor: tuple[Values, Values, Values] | None = None
    guess_error: Values | None = None
    router: tuple[Values, Values] | None = None
    blocks: Values | None = None

    @property
    def selection(self) -> Selection:
        """The rule that the selector is over the site's units."""
        return self.selector.selection(self.site.units)

    def score(self, signal: Values) -> Values:
        """Higher is kept: [..., units] of a signal of the same shape and kind of values as the gate's own.

        The shift is one of the units: of another signal, such as gate's output, it says nothing.
        """
        return score(signal, self.shift if self.signal.is_units else None, self.scale)

    def tensors(self) -> dict[str, Values]:
        """All that it holds by name, those of tuples numbered."""
        found: dict[str, Values] = {}
        for name, count in TENSORS.items():
            held = getattr(self, name)
            if held is not None:
                found |= {name: held} if count == 1 else {f"{name}.{index}": held[index] for index in range(count)}
        return found

    def with_tensors(self, held: Mapping[str, Values]) -> Gate:
        """The same gate with others, named as `tensors` names them; what is not there is None."""
        parts: dict[str, Any] = {
            name: held.get(name) if count == 1 else tuple(held[f"{name}.{index}"] for index in range(count))
            for name, count in TENSORS.items()
            if count == 1 or f"{name}.0" in held
        }
        return replace(self, **parts)

    def extra_bytes(self, element_size: int) -> float:
        """Bytes that this gate itself reads for each token: adapters, low-rank factors, predictors, routers.

        A basis is read once by all gates that share it, and there is no way back to pay for: it is in the
        stored weight, as a norm is. A scale and a shift are folded into thresholds and bias, and the inputs or bits
        that a guess reads are not among the site's bytes.
        """
        sizes = {name: math.prod(held.shape) for name, held in self.tensors().items()}
        read = sum(size for name, size in sizes.items() if name.startswith(("low_rank", "predictor", "router")))
        return element_size * (read + sizes.get("basis", 0) / self.basis_shares)


def score(signal: Values, shift: Values | None, scale: Values | None) -> Values:
    """|signal - shift| * scale [..., units], by operators that arrays and tensors have; a new one."""
    size = abs(signal if shift is None else signal - shift)
    return size if scale is None else size * scale


def array_of(values: Values) -> Array:
    """In NumPy, which has no bfloat16."""
    if isinstance(values, np.ndarray):
        return values
    tensor = values.detach().cpu()
    return np.asarray(tensor if tensor.dtype.itemsize > 2 else tensor.float())
