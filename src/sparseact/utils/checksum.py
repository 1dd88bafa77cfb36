"""The checksum that weights are known by."""

import hashlib
from pathlib import Path


def sha256_of(*files: Path) -> str:
    """SHA-256 of the contents of `files`, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
