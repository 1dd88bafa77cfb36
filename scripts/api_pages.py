"""A page for each package with every public name in it, for the documentation; written when it is built.

An object that several packages offer is described where it is offered first.
"""

import ast
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from sphinx.pycode import ModuleAnalyzer

import sparseact

ROOT = Path(__file__).parents[1]
MODULES = {
    "sparseact.errors",
    "sparseact.masked.selectors",
    "sparseact.recipes.gate",
    "sparseact.recipes.selectors",
} | {
    f"sparseact.training.{name}"
    for name in (
        "block_ffn",
        "controller",
        "gates",
        "gradients",
        "mask_metrics",
        "masks",
        "objectives",
        "penalties",
        "routers",
        "schedules",
        "trainer_callback",
    )
}
"""Modules whose own names are public too."""


def packages() -> Iterator[ModuleType]:
    """`sparseact`, then its packages that offer names, by name; the command line offers commands instead."""
    yield sparseact
    found = {module.name for module in pkgutil.iter_modules(sparseact.__path__, "sparseact.") if module.ispkg}
    for name in sorted(found - {"sparseact.cli"} | MODULES):
        if public_names(package := import_module(name)):
            yield package


def public_names(module: ModuleType) -> list[str]:
    """What `__all__` lists, else what a package imports as itself (`from a import b as b`) or a module defines."""
    if hasattr(module, "__all__"):
        names = set(module.__all__)
    else:
        tree = ast.parse(inspect.getsource(module))
        imported = (name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names)
        names = {name.name for name in imported if name.name == name.asname}
        defined = (name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__)
        names |= {name for name in defined if module.__name__ in MODULES and not name.startswith("_")}
    return sorted(names, key=str.lower)


def write(folder: Path) -> None:
    """Write the pages that are not there as they should be, and remove those of packages that are gone."""
    wanted = {folder / f"{name.removeprefix('sparseact.')}.md": text for name, text in pages().items()}
    folder.mkdir(parents=True, exist_ok=True)
    for path in {*folder.glob("*.md")} - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The text of each page by the package's name."""
    described: dict[int, str] = {}
    texts = {}
    for package in packages():
        parts = [f"# {package.__name__}", (package.__doc__ or "").strip(), "```{eval-rst}"]
        for name in public_names(package):
            full = f"{package.__name__}.{name}"
            thing = getattr(package, name)
            elsewhere = described.get(id(thing)) if _has_own_name(thing) else None
            parts.append(f"``{name}``\n   See :py:obj:`{elsewhere}`.\n" if elsewhere else _directive(full, thing))
            if _has_own_name(thing):
                described.setdefault(id(thing), full)
        texts[package.__name__] = "\n\n".join([*parts, "```"]) + "\n"
    return texts


def _has_own_name(thing: object) -> bool:
    return inspect.isclass(thing) or inspect.isroutine(thing)


def _directive(full: str, thing: object) -> str:
    if inspect.isclass(thing):
        kind = "autoexception" if issubclass(thing, BaseException) else "autoclass"
        return f".. {kind}:: {full}\n   :members:"
    if inspect.isroutine(thing):
        return f".. autofunction:: {full}"
    if inspect.ismodule(thing):
        return f".. py:module:: {full}"
    about = "\n   ".join(_constant_lines(full.rpartition(".")[2], thing))
    return f".. py:data:: {full}\n\n   {about}"


def _constant_lines(name: str, thing: object) -> list[str]:
    """What the source says below a constant, in whichever module that is."""
    for module in [found for key, found in sys.modules.items() if key.startswith("sparseact")]:
        if vars(module).get(name) is thing and module.__file__:
            documented = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
            if lines := documented.get(("", name)):
                return lines
    return []


if __name__ == "__main__":
    write(ROOT / "docs" / "reference")
