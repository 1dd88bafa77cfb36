"""A results page: rows that were kept, and the places between `<!-- NAME -->` and `<!-- end -->` that they fill."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_rows(files: Iterable[Path]) -> list[dict[str, Any]]:
    """The lines of JSON of all files, one after the other."""
    return [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def fill(page: Path, sections: dict[str, str]) -> None:
    """Write each section into its place; sections that have none are printed."""
    text = page.read_text()
    for name, markdown in sections.items():
        pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
        text, found = re.subn(pattern, lambda match, new=markdown: match[1] + new + match[2], text, flags=re.DOTALL)
        if not found:
            print(f"no place for {name}")
    page.write_text(text)
