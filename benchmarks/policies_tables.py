"""Write the tables and the plot of docs/results/policies.md from the rows of policies.py beside it.

python benchmarks/policies_tables.py --page docs/results/policies.md
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pages import fill, read_rows

MODELS = {"smollm2": "SmolLM2-135M-Instruct", "gemma3": "Gemma-3-270m"}
DRAWN = {
    "sparseact": ("#E0670A", "o"),
    "teal": ("#0086E3", "s"),
    "wina": ("#3A46F0", "^"),
    "scap": ("#10BBE8", "v"),
    "chess": ("#2B8846", "D"),
    "cats": ("#963F96", "P"),
    "cett": ("#B01010", "X"),
    "deja-vu": ("#E1AA90", "*"),
}
"""Colour and marker of the policies that are named in the plot; the others are grey."""

DRAWN_FIELDS = (("ratio", "perplexity / dense - 1", 30), ("kl", "KL from dense (nats)", 5))
"""Field, label and end of the axis: what lies beyond is no model any more."""

NAMED = ("sparseact", "teal", "wina")
"""The default policy, and the two that the design sets it beside."""

Row = dict[str, Any]
Windows = tuple[tuple[int, int], int]

OTHER = "†"
OTHER_WINDOWS = f"{OTHER} Of other windows than most of its level: not to be compared with the rows beside it."


def main() -> None:
    """Fill in the page and draw the picture."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--page", type=Path, default=Path("docs/results/policies.md"))
    options.add_argument("--image", type=Path, default=Path("docs/images/policies.png"))
    arguments = options.parse_args()
    rows = read([arguments.page.with_suffix("") / f"{model}.jsonl" for model in MODELS])
    fill(arguments.page, _places(rows))
    draw(rows, arguments.image)


def read(files: Sequence[Path]) -> dict[str, list[Row]]:
    """Rows by model, which is the name of the file."""
    rows = {path.stem: read_rows([path]) for path in files}
    return {model: sorted(rows[model], key=lambda row: row["sparsity"]) for model in MODELS}


def places(files: Sequence[Path]) -> dict[str, str]:
    """The tables of the page, by the name of their place."""
    return _places(read(files))


def _places(rows: dict[str, list[Row]]) -> dict[str, str]:
    found = {"headline": headline(rows)}
    for model, of_model in rows.items():
        found |= {f"{model} perplexity": by_level(of_model), f"{model} rows": in_full(of_model)}
    return found


def by_level(rows: list[Row]) -> str:
    """Perplexity against dense, policies by levels, the best at the middle level first."""
    levels = sorted({row["sparsity"] for row in rows})
    cells = {(row["policy"], row["sparsity"]): row for row in rows}
    usual = {level: usual_windows([row for row in rows if row["sparsity"] == level]) for level in levels}
    names = sorted({row["policy"] for row in rows}, key=lambda name: _ratio(cells.get((name, 0.4))))
    lines = [_head(["policy", *(f"{level:.0%}" for level in levels)])]
    lines += [_line([f"`{name}`", *(_cell(cells.get((name, level)), usual) for level in levels)]) for name in names]
    lines.append(_line(["*tokens*", *(str(usual[level][0][0]) for level in levels)]))
    return _table(lines)


def usual_windows(rows: Sequence[Row]) -> Windows:
    """What most of the rows were measured on."""
    found = [windows(row) for row in rows if "refused" not in row]
    (text, _), (answers, _) = (Counter(of).most_common(1)[0] for of in zip(*found, strict=True))
    return text, answers


def windows(row: Row) -> Windows:
    """What a row was measured on: tokens and context of the text, tokens of the answers."""
    return (row["tokens"], row["context"]), row["answers"]["tokens"]


def in_full(rows: list[Row]) -> str:
    """Every row, by level and then by perplexity."""
    lines = [
        _head(
            [
                "policy",
                "sparsity",
                "achieved",
                "MB per token",
                "perplexity / dense",
                "KL",
                "agreement",
                "answers: perplexity / dense",
                "answers: KL",
                "answers: achieved",
                "tokens: text, answers",
            ]
        )
    ]
    usual = {row["sparsity"]: usual_windows([of for of in rows if of["sparsity"] == row["sparsity"]]) for row in rows}
    for row in sorted(rows, key=lambda row: (row["sparsity"], _ratio(row))):
        if "refused" in row:
            lines.append(_line([f"`{row['policy']}`", f"{row['sparsity']:g}", "out of reach", *[""] * 8]))
            continue
        answers = row["answers"]
        lines.append(
            _line(
                [
                    f"`{row['policy']}`",
                    f"{row['sparsity']:g}",
                    f"{row['achieved']:.3f}",
                    f"{row['bytes_per_token'] / 1e6:.0f}",
                    _with_interval(row) + _mark(row, usual),
                    f"{row['kl']:.3f}",
                    f"{row['agreement']:.3f}",
                    _with_interval(answers) + _mark(row, usual, answers=True),
                    f"{answers['kl']:.3f}",
                    f"{answers['achieved']:.3f}",
                    f"{row['tokens']}, {answers['tokens']}",
                ]
            )
        )
    return _table(lines)


def headline(rows: dict[str, list[Row]]) -> str:
    """The default policy beside TEAL and WINA."""
    lines = [_head(["", "sparsity", *(f"`{name}`" for name in NAMED)])]
    for model, of_model in rows.items():
        for level in (0.25, 0.4, 0.5):
            cells = {row["policy"]: row for row in of_model if row["sparsity"] == level}
            if not cells:
                continue
            usual = {level: usual_windows([*cells.values()])}
            lines.append(_line([MODELS[model], f"{level:.0%}", *(_cell(cells.get(name), usual) for name in NAMED)]))
    return _table(lines)


def draw(rows: dict[str, list[Row]], path: Path) -> None:
    """Perplexity / dense and KL against weight bytes per token, both on logarithmic axes."""
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    axes = figure.subplots(2, len(rows), squeeze=False)
    for column, (model, of_model) in enumerate(rows.items()):
        measured = [row for row in of_model if "ratio" in row]
        for line, (field, label, top) in enumerate(DRAWN_FIELDS):
            ax = axes[line][column]
            _curves(measured, ax, field)
            ax.set(yscale="log", ylim=(1e-3, top), xlabel="MB of weights read per token (float32)", ylabel=label)
            ax.set_title(MODELS[model] if line == 0 else "")
            ax.grid(alpha=0.25)
    axes[0][0].legend(fontsize=8, loc="upper right")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def _curves(rows: list[Row], ax: Axes, field: str) -> None:
    for name in sorted({row["policy"] for row in rows}, key=lambda name: name in DRAWN):
        own = sorted((row for row in rows if row["policy"] == name), key=lambda row: row["bytes_per_token"])
        x = [row["bytes_per_token"] / 1e6 for row in own]
        y = [max(row["ratio"] - 1, 1e-3) if field == "ratio" else row["kl"] for row in own]
        colour, marker = DRAWN.get(name, ("#B8BEC6", "."))
        ax.plot(x, y, color=colour, marker=marker, lw=2 if name == "sparseact" else 1.2, ms=5, label=_label(name))


def _label(name: str) -> str:
    return name if name in DRAWN else "_others"


def _ratio(row: Row | None) -> float:
    return float("inf") if row is None or "ratio" not in row else float(row["ratio"])


def _cell(row: Row | None, usual: Mapping[float, Windows]) -> str:
    if row is None:
        return ""
    return "out of reach" if "refused" in row else _number(row["ratio"]) + _mark(row, usual)


def _mark(row: Row, usual: Mapping[float, Windows], *, answers: bool = False) -> str:
    """A dagger on what is of other windows than most rows of its level."""
    return "" if windows(row)[answers] == usual[row["sparsity"]][answers] else OTHER


def _with_interval(row: Row) -> str:
    """A ratio, with the ends of its interval where the row has one."""
    ends = row.get("ratio_interval")
    return _number(row["ratio"]) + (f" ({_number(ends[0])} to {_number(ends[1])})" if ends else "")


def _number(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio < 1000 else f"{ratio:.0e}"


def _table(lines: Sequence[str]) -> str:
    """The lines, and what the dagger means if there is one."""
    text = "".join(f"{line}\n" for line in lines)
    return text + (f"\n{OTHER_WINDOWS}\n" if OTHER in text else "")


def _head(names: list[str]) -> str:
    return _line(names) + "\n" + _line(["---"] * len(names))


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
