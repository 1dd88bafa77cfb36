"""The tensors of a GGUF file; its blocks are taken over without loss where `formats` has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.formats import BLOCK, Array, Bytes, Floats, Quantised
from sparseact.models.sources.gguf_header import TensorInfo, read_header


@dataclass(frozen=True)
class GGUFTensors:
    """A GGUF file of one model."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, path: Path) -> GGUFTensors:
        """Read the header.

        Raises:
            InputError: no such file, no GGUF file, or one that is cut short or damaged.
            UnsupportedModelError: numbers in a type that is not known.
        """
        header = read_header(path)
        for name, info in header.tensors.items():
            if info.offset + math.prod(info.shape[:-1]) * _row_bytes(path, name, info) > header.size:
                raise InputError(f"{path}: this GGUF file is cut short or damaged")
        return cls(path, header.metadata, header.tensors)

    @property
    def files(self) -> list[Path]:
        """The file itself."""
        return [self.path]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: info.shape for name, info in self.tensors.items()}

    def read(self, name: str, first: int, last: int) -> Floats | Quantised:
        """Rows `first` to `last` of a tensor: its blocks for Q8_0, Q4_0, Q4_1 and Q5_0, else float32."""
        import gguf

        info = self.tensors[name]
        if len(info.shape) == 1:  # a row is a number
            return self.read_row(name)[first:last]
        width = _row_bytes(self.path, name, info)
        rows = np.fromfile(self.path, np.uint8, (last - first) * width, offset=info.offset + first * width)
        rows = rows.reshape(last - first, width)
        kind = gguf.GGMLQuantizationType(info.type)
        if kind.name in _BLOCKS:
            return _BLOCKS[kind.name](rows)
        return self._floats(rows, name, info)

    def read_row(self, name: str) -> Floats:
        """A tensor of one dimension."""
        info = self.tensors[name]
        raw = np.fromfile(self.path, np.uint8, _row_bytes(self.path, name, info), offset=info.offset)
        return self._floats(raw, name, info)

    def _floats(self, raw: Bytes, name: str, info: TensorInfo) -> Floats:
        import gguf

        kind = gguf.GGMLQuantizationType(info.type)
        try:
            return np.ascontiguousarray(gguf.quants.dequantize(raw, kind), dtype=np.float32)
        except NotImplementedError as error:
            raise UnsupportedModelError(f"{self.path}: {name} holds {kind.name}, which cannot be unpacked") from error


def _row_bytes(path: Path, name: str, info: TensorInfo) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        elements, size = GGML_QUANT_SIZES[GGMLQuantizationType(info.type)]
    except (KeyError, ValueError) as error:
        raise UnsupportedModelError(f"{path}: {name} holds numbers of ggml's type {info.type}, not known") from error
    if not info.shape or info.shape[-1] % elements:
        raise InputError(f"{path}: {name} {info.shape} is not made of blocks of {elements}; the file is damaged")
    return info.shape[-1] // elements * size


def _blocks(rows: Bytes, size: int) -> tuple[Bytes, Array]:
    """The blocks [outputs, blocks, size] of rows, and the float16 scale [outputs, blocks] that each starts with."""
    blocks = rows.reshape(len(rows), rows.shape[1] // size, size)
    return blocks, _halves(blocks, 0)


def _halves(blocks: Bytes, at: int) -> Array:
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0].astype(np.float16)


def _nibbles(packed: Bytes) -> Bytes:
    """Codes [outputs, blocks, 32] of 16 bytes each: first all low halves, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _q8_0(rows: Bytes) -> Quantised:
    blocks, scales = _blocks(rows, 34)
    return _quantised("q8", blocks[..., 2:].view(np.int8), scales)


def _q5_0(rows: Bytes) -> Quantised:
    """Its s * (n - 16) with n in 0..31 is q8 with small codes."""
    blocks, scales = _blocks(rows, 22)
    fifth = np.unpackbits(blocks[..., 2:6], axis=-1, bitorder="little")
    codes = (_nibbles(blocks[..., 6:]) | fifth << 4).astype(np.int8) - np.int8(16)
    return _quantised("q8", codes, scales)


def _q4_0(rows: Bytes) -> Quantised:
    blocks, scales = _blocks(rows, 18)
    return _quantised("q4", _nibbles(blocks[..., 2:]), scales)


def _q4_1(rows: Bytes) -> Quantised:
    blocks, scales = _blocks(rows, 20)
    return _quantised("q4m", _nibbles(blocks[..., 4:]), scales, _halves(blocks, 2))


def _quantised(name: str, codes: Array, scales: Array, mins: Array | None = None) -> Quantised:
    flat = np.ascontiguousarray(codes).reshape(len(codes), codes.shape[1] * BLOCK)
    return Quantised(name, flat.shape[1], flat, scales, mins)


_BLOCKS: dict[str, Callable[[Bytes], Quantised]] = {"Q8_0": _q8_0, "Q5_0": _q5_0, "Q4_0": _q4_0, "Q4_1": _q4_1}
"""ggml's types that `formats` has without loss."""
