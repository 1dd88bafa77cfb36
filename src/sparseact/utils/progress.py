"""What a long command says of itself while it runs."""

import sys

from tqdm import tqdm


def say(line: str) -> None:
    """A line on standard error, above a bar if one is drawn."""
    tqdm.write(f"sparseact: {line}", file=sys.stderr)
