"""Where each model family keeps its units: module names inside one block, tried by structure.

No family needs code of its own, because a neuron and a head are both a slice of the input of a
linear: its `Layout` in `models.families`, or one published under the entry point group
`sparseact.layouts`, is enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from torch import nn

from sparseact.errors import UnsupportedModelError, unknown_name
from sparseact.models.families import BUILTIN, Layout, known_families
from sparseact.recipes.site import UNITS, Site, UnitKind
from sparseact.utils.registry import with_plugins

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYOUTS: list[Layout] = list(dict.fromkeys(family.layout for family in BUILTIN.values()))
"""The layouts of the built-in families."""


def find_sites(model: PreTrainedModel, units: str = "both", *, layout: Layout | None = None) -> list[Site]:
    """Find the units of a transformers causal LM.

    Args:
        model: a loaded model; its config gives the number of layers and heads.
        units: "mlp", "heads" or "both".
        layout: names to use instead of the known ones; every block must have them.

    Returns:
        One site per (layer, kind), by layer, neurons before heads.

    Raises:
        InputError: `units` is not one of the three.
        UnsupportedModelError: no known layout fits the model's blocks.
    """
    if units not in UNITS:
        raise unknown_name("units: unknown units", units, UNITS)
    blocks, layout, shares = dissect(model, layout)
    return [
        _site(layer, kind, path, block, layout, model.config.num_attention_heads, shares)
        for layer, (path, block) in enumerate(blocks.items())
        for kind in UNITS[units]
    ]


def find_channels(model: PreTrainedModel, *, lm_head: bool = False, layout: Layout | None = None) -> list[Site]:
    """Find every input channel of every linear in the blocks.

    Args:
        lm_head: and of the head of the model; one unit is a column of the output embedding, tied or not.

    Returns:
        One site per linear, in the order in which a block runs them; its units are the input channels,
        its name `self_attn.q_proj.3`, and one unit stands for its column of the weight.

    Raises:
        UnsupportedModelError: no known layout fits the model's blocks, or its head is no linear.
    """
    blocks, layout, shares = dissect(model, layout)
    channels = [
        Site(layer, "channels", path, f"{path}.{name}", linear_shape(linear)[1], 1, row_bytes(linear, 1, shares))
        for layer, (path, block) in enumerate(blocks.items())
        for name in layout.modules
        for linear in [block.get_submodule(name)]
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


def dissect(model: PreTrainedModel, layout: Layout | None = None) -> tuple[dict[str, nn.Module], Layout, Counter[int]]:
    """The blocks by dotted name, their layout, and in how many blocks each module stands, by id."""
    blocks = _blocks(model)
    layout = _recognise(model, blocks, [layout] if layout else known_layouts())
    shares = Counter(id(block.get_submodule(name)) for block in blocks.values() for name in layout.modules)
    return blocks, layout, shares


def _blocks(model: PreTrainedModel) -> dict[str, nn.Module]:
    depth = getattr(model.config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return {f"{name}.{index}": block for index, block in enumerate(module)}
    raise UnsupportedModelError(
        f"{type(model).__name__}: no list of {depth} blocks (config.num_hidden_layers) found, "
        "so it is not a decoder that sparseact can take apart"
    )


def known_layouts() -> Iterator[Layout]:
    """The layouts of all families; other packages are asked last, which takes time."""
    yield from LAYOUTS
    yield from (family.layout for name, family in known_families().items() if name not in BUILTIN)
    yield from with_plugins("sparseact.layouts", dict[str, Layout]()).values()


def _recognise(model: PreTrainedModel, blocks: dict[str, nn.Module], layouts: Iterable[Layout]) -> Layout:
    # What every block has: some models mix dense blocks with blocks of experts.
    inside = [dict(block.named_modules(remove_duplicate=False)) for block in blocks.values()]
    found = set(inside[0]).intersection(*inside[1:])
    tried = []
    for layout in layouts:
        if found.issuperset(layout.modules):
            return layout
        tried.append(layout)
    nearest = max(tried, key=lambda layout: len(found.intersection(layout.modules)))
    lacks = [name for name in nearest.modules if name not in found]
    linears = [name for name, module in inside[0].items() if getattr(getattr(module, "weight", None), "ndim", 0) == 2]
    has = [name for name in linears if name in found.difference(nearest.modules)] or ["no other linears"]
    raise UnsupportedModelError(
        f"model: {getattr(model.config, 'model_type', '?')!r} fits no family: blocks lack {_some(lacks)} "
        f"({nearest.name}), have {_some(has)}; pass layout=sparseact.sites.Layout(...) or add an entry point "
        "'sparseact.families'"
    )


def _some(names: list[str]) -> str:
    return shorten(", ".join(names), 42, placeholder=" ...")


def _site(
    layer: int,
    kind: UnitKind,
    path: str,
    block: nn.Module,
    layout: Layout,
    heads: int,
    shares: Counter[int],
) -> Site:
    out_name = layout.mlp_out if kind == "mlp" else layout.attention_out
    out = block.get_submodule(out_name)
    width = linear_shape(out)[1]
    units = width if kind == "mlp" else heads
    if width % units:
        raise UnsupportedModelError(f"{path}.{out_name}: {width} inputs are not a multiple of {units} heads")
    size = width // units
    saved = row_bytes(out, 1, shares) * size
    if kind == "mlp":
        saved += sum(
            row_bytes(block.get_submodule(name), 0, shares) * (linear_shape(block.get_submodule(name))[0] // units)
            for name in layout.mlp_in
        )
    else:
        saved += row_bytes(block.get_submodule(layout.attention_in[0]), 0, shares) * size
    return Site(layer, kind, path, f"{path}.{out_name}", units, size, saved)


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
