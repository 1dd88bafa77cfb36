"""Draw docs/images/architecture.svg: the packages, and who imports whom, as measured.

A box stands a row below all that import it, to the left where most of its modules do without torch. Of all imports only
those are drawn that no way over others implies; all of them are in the file as text, by which a test sees whether the
picture is current.
"""

from functools import cache
from pathlib import Path

import grimp
import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
HEAVY, LIGHT, INK, MUTED = "#f9cf9f", "#dcebf7", "#1b1f24", "#6b7580"
WIDTH, HEIGHT, ROW, COLUMN, GAP = 1.5, 0.44, 0.95, 3.4, 0.25

Edges = set[tuple[str, str]]


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("sparseact", include_external_packages=True, exclude_type_checking_imports=True)


def imports() -> Edges:
    """(importer, imported) for all packages of sparseact, without what is for type checkers only."""
    graph = _graph()
    found = set()
    for importer in graph.modules:
        if importer.startswith("sparseact."):
            ends = graph.find_modules_directly_imported_by(importer)
            found |= {(_package(importer), _package(end)) for end in ends if end.startswith("sparseact.")}
    return {(importer, imported) for importer, imported in found if importer not in {imported, "__main__"}}


def share_with_torch(package: str) -> float:
    """Share of a package's modules that import torch or transformers."""
    graph = _graph()
    modules = {name for name in graph.modules if name.startswith("sparseact.") and _package(name) == package}
    heavy = {
        name for external in ("torch", "transformers") for name in graph.find_modules_that_directly_import(external)
    }
    return len(modules & heavy) / len(modules)


def _package(module: str) -> str:
    return module.split(".")[1]


def as_text() -> str:
    """All imports, as they stand in the picture's description."""
    return "; ".join(f"{importer} > {imported}" for importer, imported in sorted(imports()))


def draw() -> None:
    """Write the picture."""
    mpl.rcParams.update({"svg.hashsalt": "sparseact", "svg.fonttype": "none"})
    below: dict[str, set[str]] = {name: set() for pair in imports() for name in pair}
    for importer, imported in imports():
        below[importer].add(imported)
    names = sorted(below, key=lambda name: (-len(_reach(below, name)), name))  # nobody before one that imports it
    down = {name: below[name] & {*names[place + 1 :]} for place, name in enumerate(names)}
    middle = _places(names, down)
    figure, axes = plt.subplots(figsize=(8.5, 8.5))
    for start, ends in down.items():
        for end in sorted(ends - {implied for other in ends for implied in _reach(down, other)}):
            _arrow(axes, middle[start], middle[end])
    for name, (x, y) in middle.items():
        _box(axes, name, x, y)
    axes.autoscale_view()
    axes.set_axis_off()
    axes.set_aspect("equal")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, bbox_inches="tight", metadata={"Date": None, "Description": as_text()})


def _reach(below: dict[str, set[str]], start: str) -> set[str]:
    found, ahead = set(), [start]
    while ahead:
        new = below[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def _places(names: list[str], down: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    depth = dict.fromkeys(names, 0)
    for name in names:
        for end in down[name]:
            depth[end] = max(depth[end], depth[name] + 1)
    taken: dict[tuple[int, int], int] = {}
    places = {}
    for name in names:
        column = 1 if share_with_torch(name) > 0.5 else 0
        side = taken[depth[name], column] = taken.get((depth[name], column), -1) + 1
        outwards = side * (WIDTH + GAP) * (1 if column else -1)
        places[name] = (column * COLUMN + outwards, -depth[name] * ROW)
    return places


def _box(axes: Axes, name: str, x: float, y: float) -> None:
    shape = {"boxstyle": "round,pad=0,rounding_size=.08", "zorder": 3}
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    box = axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, fc=LIGHT, ec="none", **shape))
    part = axes.add_patch(Rectangle(corner, WIDTH * share_with_torch(name), HEIGHT, fc=HEAVY, ec="none", zorder=4))
    part.set_clip_path(box)
    axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, fc="none", ec=INK, lw=0.8, **shape | {"zorder": 5}))
    axes.text(x, y, name, ha="center", va="center", fontsize=10, color=INK, zorder=6)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    rows = round((start[1] - end[1]) / ROW)
    same_column = abs(start[0] - end[0]) < WIDTH
    bend = 0.0 if rows == 1 or not same_column else 0.25 * (1 if start[0] > COLUMN / 2 else -1)
    ends = {"posA": (start[0], start[1] - HEIGHT / 2), "posB": (end[0], end[1] + HEIGHT / 2)}
    look = {"arrowstyle": "-|>", "mutation_scale": 9, "lw": 0.9, "color": MUTED}
    axes.add_patch(FancyArrowPatch(**ends, **look, connectionstyle=f"arc3,rad={bend}"))


if __name__ == "__main__":
    draw()
