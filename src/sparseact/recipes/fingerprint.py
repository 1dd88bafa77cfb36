"""What a recipe knows its model by, whichever side reads the weights: a hash of some of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

from sparseact.models.formats import Floats, bf16_of, float_of_bf16


def sampled(shape: Sequence[int]) -> range:
    """Places, in a weight of this shape read row by row, of the some 32 values that a fingerprint looks at."""
    size = math.prod(shape)
    return range(0, size, max(1, size // 32))


def fingerprint(family: str, linears: Iterable[tuple[str, tuple[int, ...], Floats]]) -> str:
    """A hash of the family, and of the gated linears' names and shapes and some of their values.

    The values are taken as bfloat16, so that the same weights in another dtype are the same model.

    Args:
        family: what the model's config calls it (`model_type`).
        linears: name of the module, shape of its weight as transformers stores it, the values at `sampled(shape)`.
    """
    digest = hashlib.sha256(family.encode())
    for name, shape, values in linears:
        digest.update(f"{name} {shape} {float_of_bf16(bf16_of(values)).tolist()}".encode())
    return digest.hexdigest()
