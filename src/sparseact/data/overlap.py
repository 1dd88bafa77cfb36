"""Whether two texts share passages, from a sketch of one of them that fits into a recipe.

Reference: the bottom-k sketch of Broder 1997, "On the resemblance and containment of documents", over
passages of 64 letters and digits (about 13 English words, the usual window of contamination checks).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import uint64
    from numpy.typing import NDArray

PASSAGE = 64
"""Letters and digits of a passage, a power of 2."""

KEPT = 512
"""Hashes of a sketch: 4 KB, and a text that shares 1% is found with a probability of 99%."""


def sketch_passages(text: str) -> str:
    """The smallest hashes of a text's passages, as base64 of 64-bit little-endian integers."""
    return b64encode(_hashes(text)[:KEPT].astype("<u8").tobytes()).decode()


def shared_passages(sketch: str, text: str) -> float:
    """The estimated share of a sketched text's passages that stand in `text` too, 0 to 1.

    Letter case, white space and punctuation do not count. A passage that is shared but not among the
    sketched ones is not noticed.
    """
    import numpy as np

    sketched = np.frombuffer(b64decode(sketch), dtype="<u8")
    return float(np.isin(sketched, _hashes(text)).mean()) if len(sketched) else 0.0


def _hashes(text: str) -> NDArray[uint64]:
    """Hashes of all passages, sorted, each once; a text shorter than a passage is one passage."""
    import numpy as np

    letters = "".join(filter(str.isalnum, text.lower())).ljust(PASSAGE)
    hashes = np.frombuffer(letters.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    factor, width = 0x9E3779B97F4A7C15, 1
    while width < PASSAGE:  # polynomial hashes of twice the width: h(ab) = h(a) * factor^width + h(b), modulo 2^64
        hashes = hashes[:-width] * np.uint64(factor) + hashes[width:]
        factor, width = factor * factor % 2**64, 2 * width
    for shift in (33, 29, 32):  # mix, so that the smallest are a random sample
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(0xFF51AFD7ED558CCD)
    return np.unique(hashes)
