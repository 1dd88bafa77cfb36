"""The picture of benchmarks/sparse_that_pays.py: loss against speed, a point for each arm.

python benchmarks/sparse_that_pays_plot.py runs/sparse-that-pays.jsonl docs/images/sparse-that-pays.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from pages import read_rows

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {"dense": "tab:gray", "untrained": "tab:orange", "trained": "tab:blue"}
"""By the first word of an arm's name."""


def main() -> None:
    """Draw the rows of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    draw(read_rows([options.rows]), options.picture, options.threads)


def draw(rows: list[dict[str, Any]], picture: Path, threads: int) -> None:
    """A panel for each text: perplexity over dense, with its interval, against the median of tokens per second."""
    texts = list(rows[0]["factor"])
    figure, panels = plt.subplots(1, len(texts), figsize=(5.5 * len(texts), 4), sharex=True, squeeze=False)
    for panel, text in zip(panels[0], texts, strict=True):
        for kind, colour in COLOURS.items():
            of_kind = [row for row in rows if row["arm"].split()[0] == kind]
            if of_kind:
                _points(panel, of_kind, text, threads, kind, colour)
        panel.margins(x=0.15, y=0.15)
        panel.axhline(1, color="lightgray", zorder=0, linestyle=":")
        panel.set(title=text, xlabel=f"tokens per second, {threads} thread(s)", ylabel="perplexity over dense (%)")
    panels[0, 0].legend(loc="upper left", fontsize=8)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)


def _points(panel: Any, rows: list[dict[str, Any]], text: str, threads: int, kind: str, colour: str) -> None:
    """The arms of a kind, each named beside its point; sparse ones are joined, from more on to less."""
    rates = [float(np.median(row[f"tokens_per_second_{threads}"])) for row in rows]
    middle, low, high = (
        100 * (np.array(ends) - 1) for ends in zip(*(row["factor"][text] for row in rows), strict=True)
    )
    style = "o" if kind == "dense" else "o-"
    panel.errorbar(rates, middle, [middle - low, high - middle], fmt=style, color=colour, capsize=2, label=kind)
    side = -1 if kind == "dense" else 1
    for number, (row, rate, height) in enumerate(zip(rows, rates, middle, strict=True)):
        offset = (0, side * (8 + 9 * (number % 2))) if kind == "dense" else (5, -3)
        align = {"ha": "center", "va": "top"} if kind == "dense" else {"ha": "left", "va": "center"}
        name = row["arm"].removeprefix(kind).strip()
        panel.annotate(name, (rate, height), xytext=offset, textcoords="offset points", fontsize=7, **align)


if __name__ == "__main__":
    main()
