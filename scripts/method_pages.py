"""A page for each metric and policy, made from its file's docstring: formula, rule, source, options, code.

The documentation writes them when it is built (docs/conf.py), into docs/methods/, which is not in the repository.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from formulas import first_line, latex

ROOT = Path(__file__).parents[1]
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")


def methods() -> Iterator[tuple[str, str, type]]:
    """Kind, name and class of every method: ("metrics", "gxo", GxO), ..., ("policies", "cats", CATS), ..."""
    from sparseact.attribution import METRICS, make_metric
    from sparseact.policies import POLICIES

    for name in METRICS:
        yield "metrics", name, type(make_metric(name))
    for name, policy in POLICIES.items():
        yield "policies", name, policy


def write(folder: Path) -> None:
    """Write the pages that are not there as they should be, and remove those of methods that are gone."""
    wanted = {folder / kind / f"{name}.md": page(kind, name, method) for kind, name, method in methods()}
    for path in {*folder.glob("*/*.md")} - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # else sphinx would read it again
            path.write_text(text, encoding="utf-8")


def page(kind: str, name: str, method: type) -> str:
    """The text of a method's page."""
    file = inspect.getfile(method)
    docstring = inspect.cleandoc(sys.modules[method.__module__].__doc__ or "")
    line = first_line(docstring)
    parts = [f"# {line.title}", _facts(kind, name, method)]
    if line.formula:
        parts.append(f"$$ {latex(line.formula)} $$")
    about = inspect.cleandoc(method.__doc__ or "").partition("\n\nAttributes:")[0].partition("\n\nRaises:")[0]
    parts += [*map(_sentence, filter(None, [line.rule])), *map(_paragraph, docstring.split("\n\n")[1:]), about]
    if line.source:
        parts.append(f"Source: {line.source}.")
    if options := _options(method):
        parts.append("## Options\n\n| option | default | meaning |\n|---|---|---|\n" + "\n".join(options))
    parts += ["## Use", f"```bash\n{_command(kind, name)}\n```"]
    code = Path(file).relative_to(ROOT).as_posix()
    include = f"{{literalinclude}} ../../../{code}\n:language: python\n:pyobject: {method.__name__}"
    parts += ["## Code", f"`{code}`", f"```{include}\n```"]
    return "\n\n".join(parts) + "\n"


def _facts(kind: str, name: str, method: Any) -> str:
    if kind == "policies":
        what = "a policy, which runs without a label"
        return (
            f"`{name}`, {what}. Measured on [one ruler](../../results/policies.md); all of them: [](../../policies.md)."
        )
    what = {
        "none": "a metric that needs no label",
        "own": "a metric that reads the gradient of each token's own loss, and so has seen the label: an oracle",
        "path": "a metric that reads gradients along a path, and so has seen the label: an oracle",
    }[method.reads]
    return (
        f"`{name}`, {what}. Measured in [one experiment](../../results/song2024.md); all of them: [](../../metrics.md)."
    )


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."


def _paragraph(text: str) -> str:
    if all(line.startswith("    ") for line in text.splitlines()):
        return f"$$ {latex(' '.join(text.split()))} $$"
    return _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def _options(method: type) -> list[str]:
    meanings = attributes(inspect.cleandoc(method.__doc__ or ""))
    shown = [field for field in fields(method) if field.name in meanings] if is_dataclass(method) else []
    return [f"| `{field.name}` | {_default(field)} | {meanings[field.name]} |" for field in shown]


def _default(field: Any) -> str:
    return f"`{field.default}`" if isinstance(field.default, (bool, int, float, str)) else ""


def attributes(docstring: str) -> dict[str, str]:
    """The entries of a docstring's Attributes section, each on one line."""
    section = docstring.partition("\nAttributes:\n")[2].partition("\n\n")[0]
    entries: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", section):
        name, _, meaning = " ".join(entry.split()).partition(": ")
        entries |= {name: meaning.replace("|", "\\|")} if meaning else {}
    return entries


def _command(kind: str, name: str) -> str:
    if kind == "policies":
        return f"sparseact calibrate --policy {name} --sparsity 0.4 --text wiki.txt --out recipe"
    return f'sparseact score --metric {name} --prompt "Why is the sky blue?" --out scores'


if __name__ == "__main__":
    write(ROOT / "docs" / "methods")
