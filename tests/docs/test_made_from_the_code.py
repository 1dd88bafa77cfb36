"""What the documentation takes from the code is there, whole and current; `make pages` writes it."""

import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_tables_are_current():
    from docs_tables import PAGES, TABLES, current

    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert current(text) == text, f"{page.name}: run: make pages"
        found += re.findall(r"<!-- table: ([\w-]+) -->", text)
    assert sorted(found) == sorted(TABLES)


def test_the_picture_of_the_architecture_is_current():
    from architecture_picture import PICTURE, as_text, imports

    drawn = re.search(r"<dc:description>(.*?)</dc:description>", PICTURE.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert drawn.replace("&gt;", ">") == as_text(), "run: make pages"
    assert {"engine", "masked", "policies"} <= {name for pair in imports() for name in pair}


def test_every_method_has_a_page_with_a_formula_and_its_source():
    from formulas import first_line
    from method_pages import methods, page

    for kind, name, method in methods():
        text = page(kind, name, method)
        assert text.count("$$ ") >= 1, f"{name}: no `score = ...` or `s = ...` in its file's docstring"
        if kind == "policies":
            assert first_line(inspect.getmodule(method).__doc__).rule
            assert "arxiv.org" in text or "Ours." in text or name == "sparseact"


def test_options_are_read_from_the_docstring():
    from method_pages import attributes, page

    assert attributes("A.\n\nAttributes:\n    a: one\n        and more.\n    b: |x|.\n\nMore.") == {
        "a": "one and more.",
        "b": "\\|x\\|.",
    }
    from sparseact.policies import RSparse

    assert "| `alpha` | `0.95` | share of what is read that is columns" in page("policies", "r-sparse", RSparse)


def test_the_reference_has_every_public_name_and_each_says_what_it_is():
    import sparseact
    from api_pages import packages, pages, public_names

    written = pages()
    for package in packages():
        for name in public_names(package):
            thing = getattr(package, name)
            assert re.search(rf"[.`]{name}\b", written[package.__name__]), f"{package.__name__}.{name}"
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert (thing.__doc__ or "").strip(), f"{package.__name__}.{name} has no docstring"
    assert {*sparseact.__all__} <= {name for package in packages() for name in public_names(package)}


@pytest.mark.parametrize("page", ["docs/policies.md", "README.md"])
def test_the_number_of_policies_is_right(page):
    from sparseact.policies import POLICIES

    counted = re.findall(r"\b(\d+) policies\b", (ROOT / page).read_text(encoding="utf-8"))
    assert counted == [str(len(POLICIES))] * len(counted)
