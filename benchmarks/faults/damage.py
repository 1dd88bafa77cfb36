"""What can happen to a file: it is cut short, bytes change, parts go or come twice; a value in JSON is another one."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

NASTY: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 2**31, 2**63, 10**400, 1e308, float("nan"), float("-inf"), "", "nan", "\x00", "\ud800"),
    *("é" * 300, [], {}, [[]], [None], {"a": 1}, "../../x", "F32", "llama"),
)
"""Values to stand where another one did."""


def damage_file(path: Path, random: Random) -> str:
    """Damage it somehow; what was done, in a few words."""
    whole = path.read_bytes()
    roads = [_bytes]
    if path.suffix in {".json", ".safetensors"}:
        roads += [_json if path.suffix == ".json" else _header] * 3
    content, what = random.choice(roads)(whole, random)
    path.write_bytes(content)
    return f"{path.name}: {what}"


def _bytes(whole: bytes, random: Random) -> tuple[bytes, str]:
    size = len(whole)
    # Most readers look at the beginning, and the end of a parquet file; weights may be anything.
    place = random.choice([random.randrange(size), random.randrange(min(size, 400)), size - 1 - random.randrange(60)])
    length = random.choice([1, 4, 8, random.randrange(1, 200)])
    kind = random.choice(["cut", "change", "change", "change", "remove", "repeat", "zero", "text"])
    before, part, after = whole[:place], whole[place : place + length], whole[place + length :]
    new = {
        "cut": before,
        "change": before + random.randbytes(len(part)) + after,
        "remove": before + after,
        "repeat": before + part + part + after,
        "zero": before + bytes(len(part)) + after,
        "text": before + random.choice([b"\r\n", b'"', b"\xff\xfe", b",", b"\t", "é\u2028".encode()]) + part + after,
    }
    return new[kind], f"{kind} {len(part)} bytes at {place} of {size}"


def _json(whole: bytes, random: Random) -> tuple[bytes, str]:
    record = json.loads(whole)
    if random.random() < 0.05:
        other = random.choice(NASTY)
        return _written(other), f"the whole is {other!r:.40}"
    what = _change(record, random)
    return _written(record), what


def _header(whole: bytes, random: Random) -> tuple[bytes, str]:
    """Of a safetensors file."""
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    what = _change(header, random)
    written = _written(header)
    return struct.pack("<Q", len(written)) + written + whole[8 + length :], what


def _written(record: Any) -> bytes:
    return json.dumps(record).encode()


def _change(record: Any, random: Random) -> str:
    """A value somewhere in it is left out or another."""
    places = [*_places(record)]
    if not places:
        return "nothing"
    holder, key, path = random.choice(places)
    kind = random.choice(["other", "other", "removed", "number"])
    if kind == "removed":
        del holder[key]
        return f"{path} removed"
    old = holder[key]
    if kind == "number" and isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = random.choice([-old, old * 2, old + 1, old // 2, float(old), str(old), [old], old * 10**6])
    else:
        holder[key] = random.choice(NASTY)
    return f"{path}: {holder[key]!r:.40} instead of {old!r:.40}"


def _places(record: Any, path: str = "") -> Any:
    items = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    for key, value in list(items):
        yield record, key, f"{path}/{key}"
        yield from _places(value, f"{path}/{key}")
