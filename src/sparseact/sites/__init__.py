"""Where the units of a model are, and how to read and change them while it runs."""

from sparseact.models.families import Layout
from sparseact.recipes.site import UNITS, Site, UnitKind
from sparseact.sites.find import LAYOUTS, Block, dissect, find_channels, find_sites, weight_bytes
from sparseact.sites.hooks import capture, on_units, refuse_compiled, skip_logits

__all__ = [
    "LAYOUTS",
    "UNITS",
    "Block",
    "Layout",
    "Site",
    "UnitKind",
    "capture",
    "dissect",
    "find_channels",
    "find_sites",
    "on_units",
    "refuse_compiled",
    "skip_logits",
    "weight_bytes",
]
