"""The names of a package, each imported when it is first asked for, so that importing the package costs nothing."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def on_first_use(package: str, names: Mapping[str, Iterable[str]]) -> Callable[[str], Any]:
    """What a package's `__init__` takes as its `__getattr__` (PEP 562).

    Args:
        package: its `__name__`.
        names: what the package offers, by the module in it that holds them; no name may be a module's too.
    """
    homes = {name: module for module, held in names.items() for name in held}

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return find
