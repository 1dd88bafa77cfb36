"""Products of the codes of a format of 8 or 4 bits, and what the constant that codes are stored with adds to a sum."""

from typing import Any

from sparseact.engine.simd.bytes import code_offset, dot_codes, dot_nibbles
from sparseact.engine.simd.jit import compiled
from sparseact.models.formats import Q4, Q8


@compiled
def dot_of(form: int, acc: Any, w: Any, x: Any) -> Any:
    """Acc + the products of four codes w and four bytes x, in each lane."""
    return dot_codes(acc, w, x) if form == Q8 else dot_nibbles(acc, w, x)


@compiled
def offset_of(form: int) -> int:
    """What is to be taken off a sum of `dot_of` for each unit of x."""
    return code_offset() if form == Q8 else 8 if form == Q4 else 0
