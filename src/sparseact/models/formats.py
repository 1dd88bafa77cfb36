"""Number formats of weights: what one weight is, in NumPy. In which order they lie in memory: engine.quant.pack.

Quantised formats have blocks of 32 weights along the inputs, with a float16 scale s (and minimum m):

    q8   w = s * q         q in -127..127        as GGUF's Q8_0
    q4   w = s * (n - 8)   n in 0..15            as GGUF's Q4_0
    q4m  w = s * n + m     n in 0..15            as GGUF's Q4_1
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

FORMATS = ("f32", "bf16", "q8", "q4", "q4m")
"""Names of the formats; the number of a format in the table of linears is its place here."""
F32, BF16, Q8, Q4, Q4M = range(5)

BLOCK = 32
"""Weights along the inputs that share a scale."""

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_CODE_TYPES = {"f32": np.float32, "bf16": np.uint16, "q8": np.int8, "q4": np.uint8, "q4m": np.uint8}


@dataclass(frozen=True)
class Quantised:
    """The weights [outputs, inputs] of one linear in one format, in natural order.

    Attributes:
        format: one of `FORMATS`.
        inputs: true number of inputs; `codes` is padded to a multiple of `BLOCK`.
        codes: [outputs, padded inputs]. float32 (f32), uint16 (bf16), int8 (q8: q), uint8 (q4, q4m: n).
        scales: float16 [outputs, blocks], or None for f32 and bf16.
        mins: float16 [outputs, blocks] for q4m, else None.
    """

    format: str
    inputs: int
    codes: Array
    scales: npt.NDArray[np.float16] | None = None
    mins: npt.NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        blocks = _up(self.inputs, BLOCK) // BLOCK
        if self.codes.dtype != _CODE_TYPES[self.format] or self.codes.shape[1:] != (blocks * BLOCK,):
            raise ValueError(f"codes of {self.format} are {self.codes.dtype} {self.codes.shape}, inputs {self.inputs}")
        for name, wanted in (("scales", self.format[0] == "q"), ("mins", self.format == "q4m")):
            found = getattr(self, name)
            if (found is not None) != wanted or (
                found is not None and (found.dtype != np.float16 or found.shape != (self.outputs, blocks))
            ):
                raise ValueError(f"{name} of {self.format} do not fit codes {self.codes.shape}")

    @property
    def outputs(self) -> int:
        """Number of outputs (rows)."""
        return int(self.codes.shape[0])


def quantise(weights: Floats, format: str) -> Quantised:  # noqa: A002
    """Weights [outputs, inputs] in a format, each rounded to the nearest value the format has."""
    outputs, inputs = weights.shape
    padded = np.zeros((outputs, _up(inputs, BLOCK)), np.float32)
    padded[:, :inputs] = weights
    if format == "f32":
        return Quantised(format, inputs, padded)
    if format == "bf16":
        return Quantised(format, inputs, bf16_of(padded))
    blocks = padded.reshape(outputs, -1, BLOCK)
    mins = None
    if format == "q8":
        scales = (np.abs(blocks).max(-1) / 127).astype(np.float16)
        codes = np.clip(np.rint(blocks * _inverse(scales)), -127, 127).astype(np.int8)
    elif format == "q4":
        # The weight of largest size gets the code 0 exactly, as in GGUF: there is one more code below 8 than above.
        extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
        scales = (extreme / -8).astype(np.float16)
        codes = np.clip(np.rint(blocks * _inverse(scales)) + 8, 0, 15).astype(np.uint8)
    else:
        mins = blocks.min(-1).astype(np.float16)
        scales = ((blocks.max(-1) - mins) / 15).astype(np.float16)
        codes = np.clip(np.rint((blocks - mins[..., None]) * _inverse(scales)), 0, 15).astype(np.uint8)
    return Quantised(format, inputs, codes.reshape(outputs, -1), scales, mins)


def high_plane(weights: Floats) -> Quantised:
    """The high 4 of the 8 bits that q8 gives each weight, as q4, which stands for a sixteenth of them."""
    whole = quantise(weights, "q8")
    return replace(whole, format="q4", codes=((whole.codes.astype(np.int16) + 128) >> 4).astype(np.uint8))


def dequantise(weights: Quantised) -> Floats:
    """The float32 values [outputs, inputs] that the codes stand for."""
    codes, name = weights.codes, weights.format
    if name == "f32":
        values = codes
    elif name == "bf16":
        values = float_of_bf16(codes)
    else:
        assert weights.scales is not None
        blocks = codes.reshape(weights.outputs, -1, BLOCK).astype(np.float32)
        if name == "q4":
            blocks -= 8
        blocks *= weights.scales[..., None].astype(np.float32)
        if weights.mins is not None:
            blocks += weights.mins[..., None].astype(np.float32)
        values = blocks.reshape(codes.shape)
    return np.ascontiguousarray(values[:, : weights.inputs], dtype=np.float32)


def is_finite(weights: Quantised) -> bool:
    """Whether every weight is a number, and none so large that the format has only infinity for it."""
    if weights.scales is not None:
        return bool(np.isfinite(weights.scales).all() and (weights.mins is None or np.isfinite(weights.mins).all()))
    if weights.format == "bf16":
        return not bool(((weights.codes & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(weights.codes).all())


def joined(parts: Sequence[Quantised]) -> Quantised:
    """Rows in one format, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    scales, mins = (
        None if getattr(parts[0], name) is None else np.concatenate([getattr(part, name) for part in parts])
        for name in ("scales", "mins")
    )
    return Quantised(parts[0].format, parts[0].inputs, np.concatenate([part.codes for part in parts]), scales, mins)


def bf16_of(values: Floats) -> npt.NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to nearest even. NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def float_of_bf16(codes: npt.NDArray[np.uint16]) -> Floats:
    """The float32 numbers whose upper halves are given."""
    return (codes.astype(np.uint32) << 16).view(np.float32)


def _inverse(scales: npt.NDArray[np.float16]) -> Floats:
    wide = scales.astype(np.float32)[..., None]
    return np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
