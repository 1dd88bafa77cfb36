"""Configuration of the documentation (sphinx)."""

import sys
from pathlib import Path

import sparseact

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import api_pages  # noqa: E402
import method_pages  # noqa: E402

method_pages.write(HERE / "methods")
api_pages.write(HERE / "reference")

project = "sparseact"
author = "The sparseact developers"
copyright = author
version = release = sparseact.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "sparseact"
exclude_patterns = ["_build"]

autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_use_ivar = True


def _keep_bars(_app, _what, _name, _object, _options, lines):
    """|x| is a magnitude in our docstrings, and no substitution."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", _keep_bars)
