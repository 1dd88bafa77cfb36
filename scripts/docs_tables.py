"""Write the tables of README.md and docs/ that list what the registries hold, so that they cannot say anything else.

A table stands between two comments, `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from formulas import Line, first_line, latex
from method_pages import methods
from sparseact.models.families.base import Layout

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
_SOURCE = re.compile(r"\(([A-Z]\w+ et al\. \d{4}.*)\)\.")
_UNITS = {"find_channels": "inputs of all linears", "find_neurons": "neurons", "find_sites": "heads (`heads`)"}
_PASSES = {"none": "1 forward", "own": "1 forward, 1 backward", "path": "n forwards and backwards per site"}


def current(page: str) -> str:
    """The text of a page with its tables as they should be."""
    return _TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", page)


def metrics_plain() -> str:
    """For where no formulas are rendered."""
    return _metrics(lambda score: f"`{score}`".replace("|", "\\|"))


def metrics_rendered() -> str:
    """With formulas."""
    return _metrics(lambda score: f"${latex(score)}$")


def _metrics(set_formula: Callable[[str], str]) -> str:
    rows = []
    for kind, name, metric in methods():
        if kind == "metrics":
            label = "no" if metric.reads == "none" else "yes: an oracle"
            cited = _SOURCE.search(metric.__doc__ or "")
            source = cited[1] if cited else "ours"
            rows.append((f"`{name}`", set_formula(_score(metric)), label, _PASSES[metric.reads], source))
    return _table(("metric", "score", "needs the label", "passes per prompt", "source"), rows)


def policies() -> str:
    """Units, score, rule and papers of every policy."""
    rows = []
    for kind, name, policy in methods():
        if kind == "policies":
            line = _line(policy)
            papers = re.findall(r"arXiv (\d{4}\.\d{5})", sys.modules[policy.__module__].__doc__ or "")
            links = ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers) or "ours"
            rule = line.rule.rstrip(".").replace("|", "\\|")
            rows.append((f"`{name}`", _units(policy), f"${latex(_score(policy))}$", rule, links))
    return _table(("policy", "units", "score", "rule", "source"), rows)


def _units_of(layout: Layout) -> tuple[str, ...]:
    """Where neurons, heads and other linears of a kind of block are."""
    made_by, others = (
        ", ".join(f"`{module}`" for module in modules)
        for modules in (
            layout.mlp_in,
            (*(() if layout.has_heads else (*layout.attention_in, layout.attention_out)), *layout.others),
        )
    )
    heads = (f"`{layout.attention_out}`", f"`{layout.attention_in[0]}`") if layout.has_heads else ("none", "")
    return f"`{layout.mlp_out}`" if layout.mlp_in else "none", made_by, *heads, others


def families() -> str:
    """What each family's file says, and where its units are."""
    from sparseact.models.families import BUILTIN

    rows = []
    for name, family in BUILTIN.items():
        about = (import_module(f"sparseact.models.families.{name}").__doc__ or "").partition("\n")[0]
        engine = "yes" if family.architecture else "no"
        runs = (engine, f"`{family.gguf.architecture}`" if family.gguf else "", ", ".join(family.tiny))
        for layout in family.layouts:
            first = layout is family.layout
            title = f"`{name}`: {about.rstrip('.')}" if first else f"`{name}`: other blocks"
            rows.append((title, *_units_of(layout), *(runs if first else ("", "", ""))))
    head = (
        "family",
        "neurons are the input of",
        "made by",
        "heads are the input of",
        "queries from",
        "other linears",
        "engine",
        "llama.cpp's architecture",
        "tested as",
    )
    return _table(head, rows)


def _units(policy: type) -> str:
    """What a policy looks for in a model."""
    names = vars(sys.modules[policy.__module__])
    return ", ".join(unit for finder, unit in _UNITS.items() if finder in names)


def _score(method: type) -> str:
    return re.sub(r"^\w+ [=~] ", "", _line(method).formula)


def _line(method: type) -> Line:
    return first_line(sys.modules[method.__module__].__doc__ or "")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "metrics": metrics_plain,
    "metrics-rendered": metrics_rendered,
    "policies": policies,
    "families": families,
}


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(current(path.read_text(encoding="utf-8")), encoding="utf-8")
