"""Fill the places of a results page: what stands between `<!-- NAME -->` and `<!-- end -->` is replaced."""

from __future__ import annotations

import re
from pathlib import Path


def fill(page: Path, sections: dict[str, str]) -> None:
    """Write each section into its place; sections that have none are printed."""
    text = page.read_text()
    for name, markdown in sections.items():
        pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
        text, found = re.subn(pattern, lambda match, new=markdown: match[1] + new + match[2], text, flags=re.DOTALL)
        if not found:
            print(f"no place for {name}")
    page.write_text(text)
