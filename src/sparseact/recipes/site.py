"""A site: the place of one layer's units, as a slice of the input of one linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

UnitKind = Literal["mlp", "heads", "channels"]
"""`mlp`: one unit is a neuron (one input of the down projection); `heads`: one unit is an
attention head (a slice of the input of the output projection); `channels`: one unit is one input of
any linear."""

UNITS: dict[str, tuple[UnitKind, ...]] = {"mlp": ("mlp",), "heads": ("heads",), "both": ("mlp", "heads")}
"""What is meant by the `units` of a sweep or of scores."""


@dataclass(frozen=True)
class Site:
    """The units of one kind in one layer.

    Attributes:
        layer: index of the block, from 0; the head of the model comes after the last one.
        kind: what one unit is.
        block: dotted name of the block that runs the module; it tells the layers apart where
            several blocks share one module (MobiLlama). The head of the model is a block of its own.
        module: dotted name of the linear whose input holds the units.
        units: number of units.
        unit_size: input features per unit (1 for a neuron, head_dim for a head).
        unit_bytes: weight bytes that need not be read for a token when one unit is off: a neuron's
            rows of gate and up and its column of down; a head's rows of q and columns of o. K and V
            of a head that is off stay, because later tokens attend to them. A module that n blocks
            share counts 1/n in each, so that its weights are counted once. A channel stands for its
            column of the one linear.
    """

    layer: int
    kind: UnitKind
    block: str
    module: str
    units: int
    unit_size: int
    unit_bytes: float

    @property
    def name(self) -> str:
        """Key of this site in artefacts: `mlp.3`, `heads.3`, and of channels `self_attn.q_proj.3`, `lm_head.30`."""
        role = self.module.removeprefix(self.block + ".") if self.kind == "channels" else self.kind
        return f"{role}.{self.layer}"

    @property
    def is_head(self) -> bool:
        """Whether this is the head of the model, which runs only for the tokens whose logits are asked for."""
        return self.module == self.block

    def split(self, x: Tensor) -> Tensor:
        """View a linear's input [..., units * unit_size] as [..., units, unit_size]."""
        return x.unflatten(-1, (self.units, self.unit_size))
