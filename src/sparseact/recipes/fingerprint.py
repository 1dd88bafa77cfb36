"""What a recipe knows its model by, whichever side reads the weights: a hash of some of them, and these numbers."""

from __future__ import annotations

import hashlib
import math
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence

import numpy as np

from sparseact.models.formats import Floats, bf16_of, float_of_bf16

SAME = 0.8
"""Share of the numbers that rounding to float16 on the way leaves as they are, at least: of random ones, .94."""


def sampled(shape: Sequence[int]) -> range:
    """Places, in a weight of this shape read row by row, of the some 32 values that a fingerprint looks at."""
    size = math.prod(shape)
    return range(0, size, max(1, size // 32))


def fingerprint(family: str, linears: Iterable[tuple[str, tuple[int, ...], Floats]]) -> str:
    """A hash of the family, and of the gated linears' names and shapes and some of their values; then these values.

    The values are taken as bfloat16, so that the same weights in another dtype are the same model.

    Args:
        family: what the model's config calls it (`model_type`).
        linears: name of the module, shape of its weight as transformers stores it, the values at `sampled(shape)`.

    Returns:
        "hash of all:hash of the names and shapes:values", the values in base64.
    """
    digest, shapes, held = hashlib.sha256(family.encode()), hashlib.sha256(family.encode()), []
    for name, shape, values in linears:
        held.append(bf16_of(values))
        digest.update(f"{name} {shape} {float_of_bf16(held[-1]).tolist()}".encode())
        shapes.update(f"{name} {shape}".encode())
    numbers = np.concatenate(held).astype("<u2").tobytes() if held else b""
    return f"{digest.hexdigest()}:{shapes.hexdigest()[:16]}:{b64encode(numbers).decode()}"


def is_same(known: str, found: str) -> bool:
    """Whether two fingerprints are of the same weights, one of which may have been rounded to float16 before.

    That moves a number that lies in the middle between two of bfloat16, and those too small for float16. Recipes of
    before know a hash alone.
    """
    (one, *of_one), (other, *of_other) = known.split(":"), found.split(":")
    if one == other or not (of_one and of_other) or of_one[0] != of_other[0]:
        return one == other
    a, b = (float_of_bf16(np.frombuffer(b64decode(held[1]), "<u2")) for held in (of_one, of_other))
    near = np.abs(a - b) <= 2.0**-7 * np.maximum(np.abs(a), np.abs(b)) + 2.0**-24
    return a.shape == b.shape and bool(near.all()) and float((a == b).mean()) >= SAME
