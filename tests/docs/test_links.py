"""Links between the pages lead somewhere, as files and as headings."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "docs").glob("[hr]*/*.md"),
    ROOT / "docs/methods/index.md",
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges and MyST make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue  # another site, which cannot be reached from everywhere
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if there.parent.parent.name == "methods" or there.parent.name == "reference":
            continue  # written when the documentation is built, which checks them
        assert there.exists(), f"{page.name}: {target} is not there"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}: no such heading"


def test_the_check_notices_a_link_to_nowhere(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title, here\n\n[x](page.md#a-title-here) [y](page.md#nowhere)\n")
    with pytest.raises(AssertionError, match="nowhere"):
        test_links_lead_somewhere(page)
