"""The picture of benchmarks/sparse_that_pays.py: loss against speed, a point for each arm.

python benchmarks/sparse_that_pays_plot.py runs/sparse-that-pays.jsonl docs/images/sparse-that-pays.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

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
    draw([json.loads(line) for line in options.rows.read_text().splitlines()], options.picture, options.threads)


def draw(rows: list[dict[str, Any]], picture: Path, threads: int) -> None:
    """A panel for each text: perplexity over dense, with its interval, against the median of tokens per second."""
    texts = list(rows[0]["factor"])
    figure, panels = plt.subplots(1, len(texts), figsize=(5.5 * len(texts), 4), sharex=True, squeeze=False)
    for panel, text in zip(panels[0], texts, strict=True):
        for row in rows:
            middle, low, high = (100 * (value - 1) for value in row["factor"][text])
            rate = np.median(row[f"tokens_per_second_{threads}"])
            colour = COLOURS.get(row["arm"].split()[0], "black")
            panel.errorbar(rate, middle, [[middle - low], [high - middle]], fmt="o", color=colour, capsize=2)
            panel.annotate(
                row["arm"], (rate, middle), xytext=(3, 4), textcoords="offset points", fontsize=7, rotation=30
            )
        panel.margins(x=0.2, y=0.15)
        panel.axhline(0, color="lightgray", zorder=0)
        panel.set(title=text, xlabel=f"tokens per second, {threads} thread(s)", ylabel="perplexity over dense (%)")
    figure.tight_layout()
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main()
