"""Configuration of the documentation (sphinx)."""

import sparseact

project = "sparseact"
author = "The sparseact developers"
copyright = author
version = release = sparseact.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "sparseact"
exclude_patterns = ["_build"]

autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_use_ivar = True
