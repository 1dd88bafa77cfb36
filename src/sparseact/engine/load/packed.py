"""Packed weights kept on disk: reading them takes a tenth of the time of packing them anew.

They are read into memory of their own, not mapped: the system gives huge pages to that, which are a quarter faster to
stream, and not to files.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from sparseact.engine.quant.arena import Linear
from sparseact.engine.simd.entry import sources_digest
from sparseact.errors import InputError
from sparseact.models.builtin import cache_folder
from sparseact.models.formats import Array
from sparseact.models.weights import Weights
from sparseact.utils.files import write_atomically

LEAST, MOST = 16 << 20, 4 << 30
"""Bytes: smaller models are packed in no time; of all that is kept, what was not read for longest goes."""

PAGE = 4096
"""Bytes that a checksum adds up with those of the other pages."""


def packed_path(weights: Weights, linears: Sequence[Linear]) -> Path | None:
    """Where these linears and the vectors of the model are kept; None for a model that is not in files.

    The name begins with what a newer file replaces: the model's place, and formats and layouts. It ends with what
    the bytes depend on besides: the files themselves, what they are taken for, and the code that packs.
    """
    if not weights.source.files:
        return None
    files = [path.resolve() for path in weights.source.files]
    same = _digest(files, [(linear.format, linear.layout) for linear in linears])
    stats = [path.stat() for path in files]
    state = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    tensors = sorted(weights.places.items()), sorted(weights.orders.items())
    whole = _digest(state, linears, *tensors, sources_digest(Path(__file__).parent.glob("*.py")))
    return cache_folder() / "packed" / f"{same}-{whole}"


def read_packed(path: Path, parts: Sequence[Array]) -> bool:
    """Fill the parts, one after the other, from what was kept; False if there is none, or it is damaged."""
    try:
        with path.open("rb") as file:
            filled = all(file.readinto(part.data.cast("B")) == part.nbytes for part in parts)
            whole = filled and file.read() == _checksum(parts)
    except OSError:
        return False
    with suppress(OSError):  # a folder that cannot be written serves as well
        os.utime(path)
    return whole


def keep_packed(path: Path, parts: Sequence[Array]) -> None:
    """Write the parts, and remove what they replace, or warn that they have to be packed again the next time."""
    if not LEAST <= sum(part.nbytes for part in parts) <= MOST:
        return
    try:
        for old in path.parent.glob(f"{path.name.partition('-')[0]}-*"):
            old.unlink(missing_ok=True)
        with write_atomically(path) as temporary, temporary.open("wb") as file:
            for part in parts:
                file.write(part.data)
            file.write(_checksum(parts))
        _bound(path.parent)
    except (InputError, OSError) as error:
        warnings.warn(f"the weights are packed anew at each load: {error} (set SPARSEACT_CACHE)", stacklevel=2)


def _bound(folder: Path) -> None:
    """Remove what was not read for longest, until the rest is no more than `MOST` bytes."""
    kept = sorted(((path.stat(), path) for path in folder.glob("[!.]*")), key=lambda pair: -pair[0].st_mtime_ns)
    total = 0
    for stat, path in kept:
        total += stat.st_size
        if total > MOST:
            path.unlink(missing_ok=True)


def _checksum(parts: Sequence[Array]) -> bytes:
    """What a damaged file does not end with: a hash of the sums over its pages, at the speed of memory."""
    digest = hashlib.sha256()
    for part in parts:
        whole = part.reshape(-1).view(np.uint8)
        end = whole.size // PAGE * PAGE
        digest.update(whole[:end].view(np.uint64).reshape(-1, PAGE // 8).sum(axis=0).tobytes())
        digest.update(whole[end:].tobytes())
    return digest.digest()


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
