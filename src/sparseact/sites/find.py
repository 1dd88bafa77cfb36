"""Where each model family keeps its units: module names inside one block, tried by structure.

No family needs code of its own, because a neuron and a head are both a slice of the input of a
linear: its `Layout` in `models.families`, one for each kind of block, or one published under the entry
point group `sparseact.layouts`, is enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from torch import nn

from sparseact.errors import UnsupportedModelError, unknown_name
from sparseact.models.families import BUILTIN, Layout, known_families
from sparseact.recipes.site import UNITS, Site, UnitKind
from sparseact.utils.registry import with_plugins

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYOUTS: list[Layout] = list(dict.fromkeys(layout for family in BUILTIN.values() for layout in family.layouts))
"""The layouts of the built-in families."""


@dataclass(frozen=True)
class Block:
    """One block of a model.

    Attributes:
        path: its dotted name.
        module: itself.
        layout: where its units are.
    """

    path: str
    module: nn.Module
    layout: Layout

    def linear(self, name: str) -> nn.Module:
        """A linear by its name inside the block."""
        return self.module.get_submodule(name)


def find_sites(model: PreTrainedModel, units: str = "both", *, layout: Layout | None = None) -> list[Site]:
    """Find the units of a transformers causal LM.

    Args:
        model: a loaded model; its config gives the number of layers and heads.
        units: "mlp", "heads" or "both".
        layout: names to use instead of the known ones; every block must have them.

    Returns:
        One site per (layer, kind) that there is, by layer, neurons before heads: a block of a hybrid may lack a kind.

    Raises:
        InputError: `units` is not one of the three.
        UnsupportedModelError: no known layout fits the model's blocks, or none of them has such units.
    """
    if units not in UNITS:
        raise unknown_name("units: unknown units", units, UNITS)
    blocks, shares = dissect(model, layout)
    sites = [
        _site(layer, kind, block, model, shares)
        for layer, block in enumerate(blocks)
        for kind in UNITS[units]
        if (block.layout.mlp_in if kind == "mlp" else block.layout.has_heads)
    ]
    if not sites:
        names = {"mlp": "MLP neurons", "heads": "attention heads", "both": "MLP neurons and no attention heads"}
        raise UnsupportedModelError(
            f"model: {type(model).__name__} has no {names[units]}; use teal, wina or sparseact, which leave out the "
            "inputs of its linears"
        )
    return sites


def find_channels(model: PreTrainedModel, *, lm_head: bool = False, layout: Layout | None = None) -> list[Site]:
    """Find every input channel of every linear in the blocks.

    Args:
        lm_head: and of the head of the model; one unit is a column of the output embedding, tied or not.

    Returns:
        One site per linear, attention before MLP before others; its units are the input channels,
        its name `self_attn.q_proj.3`, and one unit stands for its column of the weight.

    Raises:
        UnsupportedModelError: no known layout fits the model's blocks, or its head is no linear.
    """
    blocks, shares = dissect(model, layout)
    channels = [
        Site(
            *(layer, "channels", block.path, f"{block.path}.{name}"),
            *(linear_shape(linear)[1], 1, row_bytes(linear, 1, shares)),
        )
        for layer, block in enumerate(blocks)
        for name in block.layout.modules
        for linear in [block.linear(name)]
    ]
    return [*channels, _head_channels(model, len(blocks))] if lm_head else channels


def _head_channels(model: PreTrainedModel, layer: int) -> Site:
    head = model.get_output_embeddings()
    name = next((name for name, module in model.named_modules() if module is head), None)
    if name is None or not hasattr(head, "in_features"):
        raise UnsupportedModelError(f"{type(model).__name__}: its head is of type {type(head).__name__}, no linear")
    return Site(layer, "channels", name, name, linear_shape(head)[1], 1, row_bytes(head, 1, Counter([id(head)])))


def weight_bytes(model: PreTrainedModel) -> int:
    """Weight bytes that a dense model reads for a token: all linears of the blocks, and the head of the model."""
    return round(sum(site.units * site.unit_bytes for site in find_channels(model, lm_head=True)))


def dissect(model: PreTrainedModel, layout: Layout | None = None) -> tuple[list[Block], Counter[int]]:
    """The blocks, and in how many of them each module stands, by id."""
    found = _blocks(model)
    layouts = _recognise(model, found, [(layout,)] if layout else known_layouts(model.config.model_type))
    blocks = [Block(path, module, one) for (path, module), one in zip(found.items(), layouts, strict=True)]
    return blocks, Counter(id(block.linear(name)) for block in blocks for name in block.layout.modules)


def _blocks(model: PreTrainedModel) -> dict[str, nn.Module]:
    depth = getattr(model.config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return {f"{name}.{index}": block for index, block in enumerate(module)}
    raise UnsupportedModelError(
        f"{type(model).__name__}: no list of {depth} blocks (config.num_hidden_layers) found, "
        "so it is not a decoder that sparseact can take apart"
    )


def known_layouts(model_type: str) -> Iterator[tuple[Layout, ...]]:
    """The layouts of each family, first of those of the type; other packages are asked last, which takes time."""
    of_type = [family.layouts for family in BUILTIN.values() if family.model_type == model_type]
    yield from dict.fromkeys([*of_type, *(family.layouts for family in BUILTIN.values())])
    yield from (family.layouts for name, family in known_families().items() if name not in BUILTIN)
    yield from ((layout,) for layout in with_plugins("sparseact.layouts", dict[str, Layout]()).values())


def _recognise(
    model: PreTrainedModel, blocks: dict[str, nn.Module], families: Iterable[tuple[Layout, ...]]
) -> list[Layout]:
    """Each block's layout, all of one family."""
    inside = [dict(block.named_modules(remove_duplicate=False)) for block in blocks.values()]
    tried: list[Layout] = []
    for layouts in families:
        fitting = [next((one for one in layouts if names.keys() >= {*one.modules}), None) for names in inside]
        found = [layout for layout in fitting if layout is not None]
        if len(found) == len(inside):
            return found
        tried += layouts
    # What every block has: some models mix dense blocks with blocks of experts.
    common = set(inside[0]).intersection(*inside[1:])
    nearest = max(tried, key=lambda layout: len(common.intersection(layout.modules)))
    lacks = [name for name in nearest.modules if name not in common]
    linears = [name for name, module in inside[0].items() if getattr(getattr(module, "weight", None), "ndim", 0) == 2]
    has = [name for name in linears if name in common.difference(nearest.modules)] or ["no other linears"]
    raise UnsupportedModelError(
        f"model: {getattr(model.config, 'model_type', '?')!r} fits no family: blocks lack {_some(lacks)} "
        f"({nearest.name}), have {_some(has)}; pass layout=sparseact.sites.Layout(...) or add an entry point "
        "'sparseact.families'"
    )


def _some(names: list[str]) -> str:
    return shorten(", ".join(names), 42, placeholder=" ...")


def _site(layer: int, kind: UnitKind, block: Block, model: PreTrainedModel, shares: Counter[int]) -> Site:
    layout = block.layout
    out_name = layout.mlp_out if kind == "mlp" else layout.attention_out
    out = block.linear(out_name)
    width = linear_shape(out)[1]
    units = width if kind == "mlp" else model.config.num_attention_heads
    if width % units:
        raise UnsupportedModelError(f"{block.path}.{out_name}: {width} inputs are not a multiple of {units} heads")
    size = width // units
    saved = row_bytes(out, 1, shares) * size
    if kind == "mlp":
        saved += sum(
            row_bytes(linear, 0, shares) * (linear_shape(linear)[0] // units)
            for linear in map(block.linear, layout.mlp_in)
        )
    else:
        queries = block.linear(layout.attention_in[0])
        # All rows of a linear of its own are of queries, and of gates on the heads if it has them.
        fused = len(layout.attention_in) == 1
        saved += row_bytes(queries, 0, shares) * (size if fused else linear_shape(queries)[0] // units)
    return Site(layer, kind, block.path, f"{block.path}.{out_name}", units, size, saved)


def linear_shape(module: Any) -> tuple[int, int]:
    """(outputs, inputs) of a linear; GPT-2's Conv1D stores its weight transposed."""
    if hasattr(module, "in_features"):
        return int(module.out_features), int(module.in_features)
    inputs, outputs = module.weight.shape
    return outputs, inputs


def row_bytes(module: Any, axis: int, shares: Counter[int]) -> float:
    """Weight bytes of one output (axis 0) or one input (axis 1), split among the blocks that share it."""
    weight = module.weight
    return weight.numel() * weight.element_size() / linear_shape(module)[axis] / shares[id(module)]
