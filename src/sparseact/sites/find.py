"""Where each model family keeps its units: module names inside one block, tried by structure.

No family needs code of its own, because a neuron and a head are both a slice of the input of a
linear. To add a family, append a `Layout` to `LAYOUTS`, or publish one under the entry point group
`sparseact.layouts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from torch import nn

from sparseact.errors import UnsupportedModelError, unknown_name
from sparseact.recipes.site import Site, UnitKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNITS: dict[str, tuple[UnitKind, ...]] = {
    "mlp": ("mlp",),
    "heads": ("heads",),
    "both": ("mlp", "heads"),
}


@dataclass(frozen=True)
class Layout:
    """Module names inside one block of a family.

    Attributes:
        name: families it serves, for messages and docs.
        mlp_in: linears whose outputs are the neurons (gate and up; fused counts as one).
        mlp_out: linear whose input is the neurons.
        attention_in: linears that make queries, keys and values, the one with the queries first (fused
            counts as one).
        attention_out: linear whose input is the heads' outputs.
    """

    name: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    attention_in: tuple[str, ...]
    attention_out: str

    @property
    def modules(self) -> tuple[str, ...]:
        """All module names that a block of this layout must have."""
        return (*self.attention_in, self.attention_out, *self.mlp_in, self.mlp_out)


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

LAYOUTS = [
    Layout(
        "Llama, SmolLM2, TinyLlama, MobiLlama, Mistral, Qwen2, Qwen3, Gemma 2, Gemma 3, StableLM, OLMo2",
        ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down_proj",
        _QKV,
        "self_attn.o_proj",
    ),
    Layout("Phi 1, 1.5, 2", ("mlp.fc1",), "mlp.fc2", _QKV, "self_attn.dense"),
    Layout("Phi-3", ("mlp.gate_up_proj",), "mlp.down_proj", ("self_attn.qkv_proj",), "self_attn.o_proj"),
    Layout("OPT", ("fc1",), "fc2", _QKV, "self_attn.out_proj"),
    Layout("GPT-2", ("mlp.c_fc",), "mlp.c_proj", ("attn.c_attn",), "attn.c_proj"),
    Layout(
        "GPT-NeoX, Pythia",
        ("mlp.dense_h_to_4h",),
        "mlp.dense_4h_to_h",
        ("attention.query_key_value",),
        "attention.dense",
    ),
]


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
    layout = _recognise(model, blocks, [layout] if layout else _known_layouts())
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


def _known_layouts() -> list[Layout]:
    return [*LAYOUTS, *(point.load() for point in entry_points(group="sparseact.layouts"))]


def _recognise(model: PreTrainedModel, blocks: dict[str, nn.Module], layouts: list[Layout]) -> Layout:
    # What every block has: some models mix dense blocks with blocks of experts.
    names = [{name for name, _ in block.named_modules(remove_duplicate=False)} for block in blocks.values()]
    found = set.intersection(*names)
    for layout in layouts:
        if found.issuperset(layout.modules):
            return layout
    wanted = " or ".join("(" + ", ".join(layout.modules) + ")" for layout in layouts)
    kind = getattr(model.config, "model_type", "?")
    raise UnsupportedModelError(
        f"model family {kind!r} ({type(model).__name__}) is not known and its blocks fit no known layout: "
        f"looked in every block for {wanted}; found {', '.join(sorted(_leaves(found)))}. To add it, pass "
        "layout=sparseact.sites.Layout(...) or publish one as entry point 'sparseact.layouts'"
    )


def _leaves(names: Iterable[str]) -> list[str]:
    names = [name for name in names if name]
    return [name for name in names if not any(other.startswith(name + ".") for other in names)]


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
