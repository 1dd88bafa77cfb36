"""From the weights of a model to the arena and the vectors that the compiled step reads, a tensor at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from sparseact.engine.forward.model import Model
from sparseact.engine.forward.state import padded, zeros
from sparseact.engine.load.packed import keep_packed, packed_path, read_packed
from sparseact.engine.quant.arena import BIAS, CODES, Arena, Linear
from sparseact.errors import InputError, unknown_name
from sparseact.models.architecture import Architecture
from sparseact.models.formats import FORMATS, Floats, Quantised, dequantise, is_finite, joined, quantise
from sparseact.models.weights import Weights

DTYPES = ("f32", "bf16", "q8", "q4", "file")
"""Types of the weights. `q4` keeps the embedding and the head at 8 bits; `file` takes what the file has."""
ROWS_AT_ONCE = 4096
"""Rows of a tensor that are read at once, so that only the result stands in memory as a whole."""


def load_model(
    weights: Weights,
    formats: Mapping[str, str],
    layouts: Mapping[str, str],
    extra: Mapping[str, Floats] | None = None,
    added: Sequence[Linear] = (),
    beside: Mapping[str, str] | None = None,
) -> Model:
    """All weights, packed; read as they were packed before where that was kept.

    Args:
        weights: where they are.
        formats: of the linears, see `formats_of`.
        layouts: layout of each linear that is not in panels, by canonical name.
        extra: more vectors.
        added: more linears, which are still zeros.
        beside: of linears in planes, the one in whose columns the low plane lies.

    Raises:
        InputError: a damaged file, or a weight that is not a finite number.
    """
    linears = [_linear(weights, name, form, layouts.get(name, "panels")) for name, form in formats.items()]
    linears = _put_beside(linears, beside or {})
    arena = Arena.allocate([*linears, *added])
    names = [name for name in weights.names if name not in formats]
    vectors, offsets = _room_for_vectors({name: weights.shape(name) for name in names}, extra or {})
    # What the model itself has comes first.
    own = [len(linears) + i for i, linear in enumerate(added) if not linear.part_of]
    end = int(arena.table[own[0], CODES]) if own else arena.data.size
    parts = vectors[: sum(padded(int(np.prod(weights.shape(name)))) for name in names)], arena.data[:end]
    path = packed_path(weights, linears)
    if path is None or not read_packed(path, parts):
        for i, linear in enumerate(linears):
            arena.store(i, joined([_as(part, linear) for part in _parts(weights, linear.name)]))
        for name in names:
            value = weights.floats(name).reshape(-1)
            _refuse_unless(bool(np.isfinite(value).all()), name)
            vectors[offsets[name] :][: value.size] = value
        if path is not None:
            keep_packed(path, parts)
    numbers = {linear.name: i for i, linear in enumerate(arena.linears)}
    head = list(formats)[-1]  # `head`, or `embed` where they are one
    for name, i in numbers.items():
        arena.table[i, BIAS] = offsets.get("head.bias" if name == head else f"{name}.bias", -1)
    return Model(arena, numbers, vectors, offsets)


def _linear(weights: Weights, name: str, form: str, layout: str) -> Linear:
    outputs, inputs = weights.shape(name)
    return Linear(name, form, layout, outputs, inputs)


def _put_beside(linears: Sequence[Linear], beside: Mapping[str, str]) -> list[Linear]:
    """The same linears, those in planes with the place of their low plane, and the space for it there."""
    lead: Counter[str] = Counter()
    for linear in linears:
        if linear.name in beside:
            lead[beside[linear.name]] += linear.shape.low // linear.shape.padded_outputs
    return [replace(one, beside=beside.get(one.name, ""), lead=lead[one.name]) for one in linears]


def formats_of(weights: Weights, dtype: str) -> dict[str, str]:
    """The format of each linear, one of `FORMATS`, for one of `DTYPES`, in the order in which a token reads them.

    Raises:
        InputError: an unknown dtype.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype: unknown type of weights", dtype, DTYPES)
    names = linear_names(weights.architecture, weights.names)
    return {name: _format_of(weights, name, dtype) for name in names}


def linear_names(architecture: Architecture, names: Collection[str]) -> list[str]:
    """Those of the names that are linears, and the embedding among them, in the order in which a token reads them."""
    layers = range(architecture.layers)
    blocks = [f"{layer}.{name}" for layer in layers for name in ("q", "k", "v", "o", "gate", "up", "down")]
    return [name for name in (*blocks, "embed", "head") if name in names]


def _format_of(weights: Weights, name: str, dtype: str) -> str:
    if dtype == "file":
        first = weights.read(name, 0, 1)
        if isinstance(first, Quantised):
            return first.format
        # A file of float32 whose numbers all fit bfloat16 was bfloat16.
        fits = all(not (part.view(np.uint32) & 0xFFFF).any() for part in map(floats_of, _parts(weights, name)))
        return "bf16" if fits else "f32"
    if dtype == "q4":
        first = weights.read(name, 0, 1)
        if isinstance(first, Quantised) and first.format in {"q4", "q4m"}:
            return first.format
        return "q8" if name in {"embed", "head"} else "q4m"
    assert dtype in FORMATS
    return dtype


def _parts(weights: Weights, name: str) -> Iterator[Floats | Quantised]:
    rows = weights.shape(name)[0]
    for first in range(0, rows, ROWS_AT_ONCE):
        yield weights.read(name, first, min(first + ROWS_AT_ONCE, rows))


def floats_of(value: Floats | Quantised) -> Floats:
    """The numbers themselves."""
    return dequantise(value) if isinstance(value, Quantised) else value


def _as(value: Floats | Quantised, linear: Linear) -> Quantised:
    if not (isinstance(value, Quantised) and value.format == linear.format):
        with np.errstate(over="ignore", invalid="ignore"):  # what they warn of is refused
            numbers = floats_of(value)
            _refuse_unless(bool(np.isfinite(numbers).all()), linear.name)
            value = quantise(numbers, linear.format)
    _refuse_unless(is_finite(value), linear.name, f", or one too large for {linear.format}")
    return value


def _refuse_unless(finite: bool, name: str, or_else: str = "") -> None:  # noqa: FBT001
    """Refuse a tensor that holds NaN or infinity: all that the model would say is made of it.

    Raises:
        InputError: names the tensor.
    """
    if not finite:
        raise InputError(f"model: the weight {name} holds a number that is not finite{or_else}; the file is damaged")


def _room_for_vectors(
    shapes: Mapping[str, tuple[int, ...]], extra: Mapping[str, Floats]
) -> tuple[Floats, dict[str, int]]:
    """Zeros for vectors, then those that are given, and where each begins."""
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()} | {name: v.size for name, v in extra.items()}
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += padded(size)
    vectors = zeros((max(end, 1),))
    for name, value in extra.items():
        vectors[offsets[name] : offsets[name] + value.size] = value.reshape(-1)
    return vectors, offsets
