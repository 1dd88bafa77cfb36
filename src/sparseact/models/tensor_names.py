"""Where each tensor of a model stands in a source: its name there, its rows, and what has to be undone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.architecture import Architecture
from sparseact.models.formats import Array

# Buffers that files hold beside the weights: masks, positions and frequencies (those that matter, the config has).
_HARMLESS = (
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    "rotary_emb.inv_freq",
    "position_ids",
    "attn_rot_embd.weight",
    "rope_freqs.weight",
    "rope_factors_short.weight",
    "rope_factors_long.weight",
)

_BESIDE_TEXT = ("vision_tower", "multi_modal_projector", "audio_tower", "embed_vision", "embed_audio")
"""Modules of a model that sees or hears, beside its language model."""


@dataclass(frozen=True)
class Place:
    """One canonical tensor in a source.

    Attributes:
        name: the source's tensor.
        first: its first row there, where several tensors are fused or the source has unused rows.
        transposed: stored as [inputs, outputs].
        added: what is added to every number; Gemma's norms are stored less 1.
        pairs: rows of a head stand as (0, 1), (2, 3), ... where they rotate as (0, n / 2), ...; their
            number in a head, 0 if they do not.
        by_head: rows of a head, and from it to the next, where other tensors' heads stand between; (0, 0) if none do.
    """

    name: str
    first: int = 0
    transposed: bool = False
    added: float = 0.0
    pairs: int = 0
    by_head: tuple[int, int] = (0, 0)

    def rows(self, count: int) -> Array | None:
        """The stored numbers, from `first` on, of the tensor's `count` rows; None where they just follow."""
        if not self.pairs and not self.by_head[0]:
            return None
        stored: Array = np.arange(count)
        if self.by_head[0]:
            head, apart = self.by_head
            stored = stored // head * apart + stored % head
        return stored.reshape(-1, self.pairs // 2, 2).swapaxes(1, 2).ravel() if self.pairs else stored


@dataclass(frozen=True)
class Naming:
    """A source's names.

    Attributes:
        modules: canonical name without layer and `.bias` to module; `{}` stands for the layer. Names with
            one module are fused in it, in their canonical order.
        transposed: linears in the blocks are stored as [inputs, outputs].
        added_to_norms: see `Place.added`.
        unused_positions: rows before position 0.
        paired: rows of q and k stand in pairs, see `Place.pairs`.
        by_head: tensors that are fused stand head by head, see `Place.by_head`.
        head_in_files: another name of the head of the model, if files have one.
    """

    modules: Mapping[str, str]
    transposed: bool = False
    added_to_norms: float = 0.0
    unused_positions: int = 0
    paired: bool = False
    by_head: bool = False
    head_in_files: str = ""

    def head(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """The module of the head in a source; it stands beside the decoder, wherever that is."""
        known = [name for name in (self.modules["head"], self.head_in_files) if name]
        wanted = tuple(f".{name}.weight" for name in known)
        found = next((name for name in shapes if f".{name}".endswith(wanted)), None)
        return found.removesuffix(".weight") if found else known[0]


def is_harmless(name: str) -> bool:
    """Whether a tensor of a source that no model uses may be passed over."""
    return name.endswith(_HARMLESS)


def is_beside_text(name: str) -> bool:
    """Whether a tensor of a model with more parts is of another part than the language model."""
    return not {*name.split(".")[:2]}.isdisjoint(_BESIDE_TEXT)


def find_places(
    architecture: Architecture, naming: Naming, shapes: Mapping[str, tuple[int, ...]], where: str
) -> dict[str, Place]:
    """The place of every tensor that the source has, by canonical name.

    Args:
        architecture: says which tensors there must be, and their shapes.
        naming: the source's names.
        shapes: the source's tensors.
        where: the source, for errors.

    Raises:
        InputError: a tensor is missing or of another shape.
        UnsupportedModelError: the source has weights that the architecture has no use for.
    """
    prefix, head = _prefix(naming, shapes), naming.head(shapes)
    naming = replace(naming, modules={**naming.modules, "head": head})
    expected = architecture.shapes
    places = {}
    for name, shape in expected.items():
        place, rows = place_of(name, architecture, naming, prefix)
        stored = (rows, *shape[1:])[:: -1 if place.transposed else 1]
        if place.name not in shapes and not architecture.optional(name):
            raise InputError(f"{where}: the tensor {place.name} is missing")
        if place.name in shapes:
            if shapes[place.name] != stored:
                raise InputError(f"{where}: {place.name} is {shapes[place.name]}; the config makes it {stored}")
            places[name] = place
    used = {place.name for place in places.values()}
    for name in shapes:
        repeated = architecture.tied and name == f"{head}.weight"  # see weights._weights_of_folder
        if name not in used and not repeated and not is_harmless(name):
            raise UnsupportedModelError(
                f"{where}: the engine has no use for the tensor {name} in a {architecture.family}"
            )
    return places


def place_of(name: str, architecture: Architecture, naming: Naming, prefix: str = "") -> tuple[Place, int]:
    """The place of one tensor, and how many rows the source's tensor must have."""
    stem, kind = (name.removesuffix(".bias"), "bias") if name.endswith(".bias") else (name, "weight")
    layer, _, part = stem.rpartition(".")
    module = naming.modules[part]
    shapes = (architecture.shapes_of_layer() if layer else architecture.shapes_outside()) | {
        "head": (architecture.vocabulary,)
    }
    fused = [other for other in shapes if naming.modules[other] == module]
    unused = naming.unused_positions if part == "positions" else 0
    by_head = naming.by_head and len(fused) > 1
    before = [architecture.head_dim if by_head else shapes[other][0] for other in fused[: fused.index(part)]]
    place = Place(
        name=f"{'' if part == 'head' else prefix}{module.format(layer)}.{kind}",
        first=unused + sum(before),
        transposed=naming.transposed and kind == "weight" and len(shapes[part]) == 2 and layer != "",
        added=naming.added_to_norms if part.endswith("norm") and kind == "weight" else 0.0,
        pairs=architecture.head_dim if naming.paired and part in {"q", "k"} else 0,
        by_head=(architecture.head_dim, len(fused) * architecture.head_dim) if by_head else (0, 0),
    )
    return place, unused + sum(shapes[other][0] for other in fused)


def _prefix(naming: Naming, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What stands before all names but the head's: `model.`, or nothing in a file of the bare decoder."""
    embed = naming.modules["embed"] + ".weight"
    return next((name.removesuffix(embed) for name in shapes if name.endswith(embed)), "")
