"""JSON that every reader takes: it has no NaN and no infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparseact.errors import InputError
from sparseact.utils.files import write_atomically


def to_json(record: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """A record as JSON (RFC 8259): a number that is not finite is null, and what JSON does not know is text."""
    options: dict[str, Any] = {"default": str, "ensure_ascii": ascii_only, "indent": indent, "allow_nan": False}
    try:
        return json.dumps(record, **options)
    except ValueError:  # a number that is not finite, which is rare
        return json.dumps(_with_nulls(record), **options)


def write_json(path: Path, record: Any, *, indent: int | None = None, nulls: bool = False) -> None:
    """Write a record as a file of JSON that is read again, so that every number in it must be finite.

    Args:
        nulls: write null for one that is not, where the reader knows what that means.

    Raises:
        InputError: one is not, or the place cannot be written.
    """
    try:
        text = json.dumps(_with_nulls(record) if nulls else record, ensure_ascii=False, indent=indent, allow_nan=False)
    except ValueError as error:
        raise InputError(f"{path}: not written, for it would hold a number that is not finite") from error
    with write_atomically(path) as temporary:
        # Half a character, as a path may hold, is written as JSON escapes it.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or holds a number that is not finite.
    """
    return json.loads(path.read_bytes(), parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is no number")


def _with_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_nulls(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
