"""The header of a GGUF file: what it says of the model, and where its tensors are.

gguf's own reader makes an object of every token: 11 seconds and 700 MB for Gemma 3's vocabulary. This one
passes over the long lists, which are the tokenizer's, and reads them when it is asked for them.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparseact.errors import InputError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_LIST = 4096  # numbers; one per layer is kept, one per token is not


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a GGUF file.

    Attributes:
        type: number of ggml's type.
        shape: rows first.
        offset: of its first byte in the file.
        path: the file.
    """

    type: int
    shape: tuple[int, ...]
    offset: int
    path: Path


@dataclass(frozen=True)
class ListInfo:
    """A list in the metadata of a GGUF file.

    Attributes:
        type: number of gguf's type of its values.
        count: of its values.
        begin: of its first byte in the file.
        end: behind its last one.
    """

    type: int
    count: int
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What stands before the numbers.

    Attributes:
        metadata: values by key.
        lists: what is left out of `metadata`, for `read_list`: lists of strings and of more than 4096 numbers.
        tensors: by name.
        size: bytes of the whole file.
    """

    metadata: dict[str, Any]
    lists: dict[str, ListInfo]
    tensors: dict[str, TensorInfo]
    size: int


def read_header(path: Path) -> Header:
    """Read a GGUF file's header.

    Raises:
        InputError: it cannot be read, is not a GGUF file of version 2 or 3, or is damaged.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            if magic != b"GGUF":
                raise InputError(f"{path}: not a GGUF file (it starts with {magic!r}, not b'GGUF')")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(_Cursor(data, 4), path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except InputError:
        raise
    except (ArithmeticError, KeyError, ValueError, struct.error) as error:
        raise InputError(f"{path}: this GGUF file is cut short or damaged") from error


def read_list(path: Path, info: ListInfo) -> list[Any]:
    """The values of a list that `read_header` passed over: a vocabulary of 262,144 tokens takes a tenth of a second.

    Raises:
        InputError: a string that is not UTF-8.
    """
    with path.open("rb") as file:
        file.seek(info.begin)
        data = file.read(info.end - info.begin)
    if info.type != _STRING:
        return list(struct.unpack(f"<{info.count}{_NUMBERS[info.type]}", data))
    strings, unpack, at = [], struct.Struct("<Q").unpack_from, 0
    try:
        for _ in range(info.count):
            end = at + 8 + unpack(data, at)[0]
            strings.append(data[at + 8 : end].decode())
            at = end
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this GGUF file is damaged: a list holds what is not UTF-8") from error
    return strings


@dataclass
class _Cursor:
    """A place in the file that moves on as it is read."""

    data: mmap.mmap
    at: int
    _formats: dict[str, struct.Struct] = field(default_factory=dict)

    def number(self, kind: str) -> Any:
        form = self._formats.setdefault(kind, struct.Struct("<" + kind))
        (value,) = form.unpack_from(self.data, self.at)
        self.at += form.size
        return value

    def string(self) -> str:
        length = self.number("Q")
        self._check(length)
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def list(self) -> list[Any] | ListInfo:
        kind, count = self.number("I"), self.number("Q")
        begin = self.at
        if kind == _STRING:
            unpack, data, at = struct.Struct("<Q").unpack_from, self.data, begin
            for _ in range(count):
                at += 8 + unpack(data, at)[0]
            self.at = at
        else:
            form = f"<{count}{_NUMBERS[kind]}"
            self._check(struct.calcsize(form))
            self.at += struct.calcsize(form)
            if count <= _LONGEST_LIST:
                return [*struct.unpack_from(form, self.data, begin)]
        self._check(0)
        return ListInfo(kind, count, begin, self.at)

    def _check(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise ValueError("a length that goes beyond the end of the file")


def _parse(cursor: _Cursor, path: Path) -> Header:
    if cursor.number("I") not in {2, 3}:
        raise ValueError("another version, or the other byte order")
    tensor_count, key_count = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    lists: dict[str, ListInfo] = {}
    for _ in range(key_count):
        key = cursor.string()
        value = _value(cursor, cursor.number("I"))
        (lists if isinstance(value, ListInfo) else metadata)[key] = value
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError("a senseless alignment")
    begin = -(-cursor.at // alignment) * alignment
    tensors = {name: TensorInfo(kind, shape, begin + offset, path) for name, kind, shape, offset in infos}
    return Header(metadata, lists, tensors, len(cursor.data))


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind == _STRING:
        return cursor.string()
    return cursor.list() if kind == _ARRAY else cursor.number(_NUMBERS[kind])


def _tensor_info(cursor: _Cursor) -> tuple[str, int, tuple[int, ...], int]:
    name = cursor.string()
    dimensions = cursor.number("I")
    if dimensions > 4:
        raise ValueError("a tensor of more than 4 dimensions")
    shape = tuple(reversed([cursor.number("Q") for _ in range(dimensions)]))
    return name, cursor.number("I"), shape, cursor.number("Q")
