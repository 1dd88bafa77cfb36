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


def families() -> str:
    """What each family's file says, and where its units are."""
    from sparseact.models.families import BUILTIN

    rows = []
    for name, family in BUILTIN.items():
        about = (import_module(f"sparseact.models.families.{name}").__doc__ or "").partition("\n")[0]
        layout = family.layout
        made_by = ", ".join(f"`{module}`" for module in layout.mlp_in)
        places = (f"`{layout.mlp_out}`", made_by, f"`{layout.attention_out}`", f"`{layout.attention_in[0]}`")
        engine = "yes" if family.architecture else "no"
        runs = (engine, f"`{family.gguf.architecture}`" if family.gguf else "", ", ".join(family.tiny))
        rows.append((f"`{name}`: {about.rstrip('.')}", *places, *runs))
    head = (
        "family",
        "neurons are the input of",
        "made by",
        "heads are the input of",
        "queries from",
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
