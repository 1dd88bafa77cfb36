"""The parts of an MLP whose neurons are gated, and what each method saves of them.

    h = act(gate(x)) * up(x),  y = down(h)

An MLP without `up` (Phi, OPT, GPT-2, GPT-NeoX) is h = act(gate(x)): its first linear is called gate
here, and up stands for 0 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sparseact.errors import UnsupportedModelError
from sparseact.masked.gate import signal_of
from sparseact.models.families import family_where
from sparseact.recipes.gate import Signal
from sparseact.sites import Block, Site, dissect, find_channels, find_sites
from sparseact.sites.find import linear_shape, row_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Part = Literal["gate", "up", "down"]


@dataclass(frozen=True)
class Neurons:
    """The neurons of one layer.

    Attributes:
        site: the neurons, h; one that is off saves what `find_sites` says, its share of all parts.
        inputs: x, what gate and up read.
        gate: the signal act(gate(x)); h itself where there is no up.
        up: the signal up(x), if the model has it.
        part_bytes: weight bytes of one neuron by part: a row of gate, a row of up, a column of down.
    """

    site: Site
    inputs: Site
    gate: Signal
    up: Signal | None
    part_bytes: dict[Part, float]

    def skipping(self, *parts: Part) -> Site:
        """The site for a method that reads of these parts only the neurons that are on."""
        return replace(self.site, unit_bytes=sum(self.part_bytes[part] for part in parts))


def find_neurons(model: PreTrainedModel) -> list[Neurons]:
    """The neurons of every layer.

    Raises:
        UnsupportedModelError: no known layout fits, the MLP is neither gated nor plain, it norms its neurons, or the
            config does not name its activation, or one that has weights of its own.
    """
    blocks, shares = dissect(model)
    sites = find_sites(model, "mlp")
    gates = _gates(model, len(blocks))
    channels = {site.module: site for site in find_channels(model)}
    found = []
    for site in sites:
        block = blocks[site.layer]
        _refuse_norms(model, block)
        wide = [  # (module, (index, parts)) of each [units, inputs] slice of a first linear, gate before up
            (name, (index, parts))
            for name in block.layout.mlp_in
            for parts in [linear_shape(block.linear(name))[0] // site.units]
            for index in range(parts)
        ]
        if len(wide) not in {1, 2}:
            raise UnsupportedModelError(f"{site.block}: {len(wide)} linears of {site.units} neurons; 1 or 2 are known")
        rows = [row_bytes(block.linear(name), 0, shares) for name, _ in wide]
        signals = [Signal("output", f"{block.path}.{name}", part) for name, part in wide]
        found.append(
            Neurons(
                site,
                channels[f"{block.path}.{block.layout.mlp_in[0]}"],
                replace(gates[site.layer], module=signals[0].module, part=signals[0].part),
                signals[1] if len(signals) > 1 else None,
                {
                    "gate": rows[0],
                    "up": rows[1] if len(rows) > 1 else 0.0,
                    "down": row_bytes(block.linear(block.layout.mlp_out), 1, shares),
                },
            )
        )
    return found


def up_signal(model: PreTrainedModel, neurons: Neurons, policy: str) -> Signal:
    """The signal up(x).

    Raises:
        UnsupportedModelError: the MLP has no up.
    """
    if neurons.up is None:
        raise UnsupportedModelError(
            f"policy: {policy}: the MLP of {type(model).__name__} is act(fc1) without an up projection, which "
            f"{policy} reads; use cats or cett"
        )
    return neurons.up


def read_signal(model: PreTrainedModel, signal: Signal, x: Tensor) -> Tensor:
    """An `output` signal [tokens, units] for inputs [tokens, inputs] of its linear, float32 on the CPU."""
    linear = model.get_submodule(signal.module)
    weight = linear.weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        return signal_of(signal, linear(x.to(weight.device, weight.dtype))).float().cpu()


def _refuse_norms(model: PreTrainedModel, block: Block) -> None:
    """A norm of all neurons leaves none that need not be computed (BitNet)."""
    parent = block.layout.mlp_out.rpartition(".")[0]
    for name, _ in block.linear(parent).named_children() if parent else ():
        if name.endswith("norm"):
            raise UnsupportedModelError(
                f"model: {type(model).__name__} norms its neurons ({block.path}.{parent}.{name}), for which all are "
                "computed; use teal, wina or sparseact, which leave out inputs"
            )


def _gates(model: PreTrainedModel, layers: int) -> list[Signal]:
    """What happens to gate's outputs, by layer."""
    config = model.config.to_dict()
    family = family_where(lambda family: family.model_type == model.config.model_type)
    factor = family.gate_factor(config) if family and family.gate_factor else 1.0
    own = family.own_sparsity(config) if family and family.own_sparsity else (0.0,) * layers
    activation = (family.activation if family else "") or _activation(model)
    return [Signal("output", activation=activation, factor=factor, own_sparsity=share) for share in own]


def _activation(model: PreTrainedModel) -> str:
    for name in ("hidden_activation", "activation_function", "hidden_act"):
        if found := getattr(model.config, name, None):
            if found == "xielu":
                raise UnsupportedModelError(
                    f"model: the neurons of {type(model).__name__} go through {found}, which has weights of its own; "
                    "use teal, wina or sparseact, which leave out inputs"
                )
            return str(found)
    raise UnsupportedModelError(f"{type(model).__name__}: its config names no activation of the MLP")
