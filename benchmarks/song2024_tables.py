"""Write the tables of docs/results/song2024.md from the csv files of song2024.py in the folder beside it.

What stands between `<!-- NAME -->` and `<!-- end -->` is replaced.

    python benchmarks/song2024_tables.py --page docs/results/song2024.md
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pages import fill

MODELS = {"smollm2": "SmolLM2-135M-Instruct", "gemma3": "Gemma-3-270m"}
UNITS = {"mlp": "MLP neurons", "heads": "attention heads", "both": "both"}
OTHER = "†"
ORDER = ["corrected-gxo", "gxo", "snip", "ig", "gradient", "magnitude", "random"]


def main() -> None:
    """Fill in the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--page", type=Path, default=Path("docs/results/song2024.md"))
    page = options.parse_args().page
    fill(page, places(sorted(page.with_suffix("").glob("*.csv"))))


def places(files: Sequence[Path]) -> dict[str, str]:
    """The tables of the page, by the name of their place; a file is MODEL-RUN.csv."""
    names = {path: path.stem.partition("-") for path in files}
    return sections({(model, run): pd.read_csv(path) for path, (model, _, run) in names.items()})


def sections(tables: dict[tuple[str, str], pd.DataFrame]) -> dict[str, str]:
    """Markdown by the name of its place in the page."""
    pages = {}
    for model in MODELS:
        runs = {run: table for (of, run), table in tables.items() if of == model}
        if "table" not in runs:
            continue
        pages[f"{model} agreement"] = "".join(
            f"\n{grid(runs, units, 'agreement', 3)}" for units in UNITS if (runs["table"]["units"] == units).any()
        )
        pages[f"{model} others"] = "".join(
            f"\n**{label}**\n{grid(runs, 'both', column, digits)}"
            for column, label, digits in (
                ("bleu", "BLEU of the free-running text", 1),
                ("kl", "KL from dense to sparse, nats per token", 2),
                ("leak", "Leak: share of steps that say the runner-up when it is attributed", 3),
            )
        )
        pages[f"{model} mlp honest"] = (
            f"\n**KL, nats per token, MLP neurons**\n{grid(runs, 'mlp', 'kl', 2)}"
            f"\n**Leak, MLP neurons**\n{grid(runs, 'mlp', 'leak', 3)}"
        )
        pages[f"{model} claim"] = claim(runs["table"])
        pages[f"{model} gains"] = gains(runs)
        if "bug-compatible" in runs:
            pages[f"{model} bug-compatible"] = f"\n{grid({'table': runs['bug-compatible']}, 'both', 'bleu', 1)}"
    return pages


def grid(runs: dict[str, pd.DataFrame], units: str, column: str, digits: int) -> str:
    """One column of sweep.csv, metrics by levels; those of the run of integrated gradients are marked."""
    table = runs["table"].query("units == @units")
    levels = sorted(table["sparsity"].unique())
    head = f"| {UNITS[units]}, requested sparsity | " + " | ".join(f"{level:g}" for level in levels) + " |\n"
    achieved = table[table["metric"] == "magnitude"].set_index("sparsity")["achieved"]
    lines = ["| achieved | " + " | ".join(f"{achieved[level]:.3f}" for level in levels) + " |\n"]
    lines += _metrics(table, column, digits, "")
    note = ""
    if "ig" in runs:
        fewer = runs["ig"].query("units == @units")
        lines += _metrics(fewer, column, digits, OTHER)
        note = f"\n{OTHER} On the first {fewer['prompts'].iloc[0]} of the questions, {fewer['tokens'].iloc[0]} tokens: "
        note += f"to be compared with each other, not with the rows of all {table['tokens'].iloc[0]}.\n"
    return "\n" + head + "|---" * (len(levels) + 1) + "|\n" + "".join(lines) + note


def _metrics(table: pd.DataFrame, column: str, digits: int, mark: str) -> list[str]:
    rows = table.pivot_table(index="metric", columns="sparsity", values=column)
    return [
        f"| {name}{mark} | " + " | ".join(f"{value:.{digits}f}" for value in rows.loc[name]) + " |\n"
        for name in ORDER
        if name in rows.index
    ]


def claim(table: pd.DataFrame) -> str:
    """The highest level at which corrected GxO loses less than 5%, by two rulers."""
    lines = ["\n| units | levels with agreement ≥ .95 | levels with BLEU ≥ 95 | at 80%: agreement, BLEU, KL, leak |\n"]
    lines.append("|---|---|---|---|\n")
    for units, label in UNITS.items():
        rows = table[(table["units"] == units) & (table["metric"] == "corrected-gxo")].set_index("sparsity")
        kept = [f"{level:g}" for level in rows.index[rows["agreement"] >= 0.95]]
        same = [f"{level:g}" for level in rows.index[rows["bleu"] >= 95]]
        at = rows.loc[0.8]
        lines.append(
            f"| {label} | {', '.join(kept) or 'none'} | {', '.join(same) or 'none'} | "
            f"{at['agreement']:.3f}, {at['bleu']:.1f}, {at['kl']:.2f}, {at['leak']:.2f} |\n"
        )
    return "".join(lines)


def gains(runs: dict[str, pd.DataFrame]) -> str:
    """What another factor and milder heads change, on the same questions."""
    variants = {
        "published (c = 0.5, released head formula)": "table",
        "`--correction auto --heads-formula theorem`": "auto",
        "published, heads at half the level": "milder-heads",
        "both": "auto-milder-heads",
    }
    lines = []
    for label, run in variants.items():
        if run not in runs:
            continue
        for units in UNITS:
            rows = runs[run].query(f"metric == 'corrected-gxo' and units == '{units}'").set_index("sparsity")
            if rows.empty:
                continue
            cells = [
                f"{rows.loc[level, 'agreement']:.3f} / {rows.loc[level, 'kl']:.2f}" for level in (0.5, 0.7, 0.8, 0.9)
            ]
            achieved = f"{rows.loc[0.8, 'achieved']:.3f}"
            lines.append(f"| {label} | {units} | {achieved} | " + " | ".join(cells) + " |\n")
    head = "\n| corrected GxO | units | achieved at .8 | 0.5 | 0.7 | 0.8 | 0.9 |\n" + "|---" * 7 + "|\n"
    return head + "".join(lines)


if __name__ == "__main__":
    main()
