"""The headline: what it is about, and its sentence made from the numbers."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sparseact.report.frames import Run, cells
from sparseact.report.style import UNITS, is_oracle, metric_style, percent, share

HEADLINE_SPARSITY = 0.8  # the level of the paper's claim


@dataclass(frozen=True)
class Focus:
    """The units, level and pair of metrics that the headline is about, with their rows of sweep.csv.

    `heads_sparsity` is None unless both kinds of units are off and the heads have a level of their own.
    """

    units: str
    sparsity: float
    heads_sparsity: float | None
    oracle: pd.Series | None
    label_free: pd.Series | None

    @property
    def main(self) -> pd.Series:
        """The metric that the page is sorted by: the oracle, or the label-free one without it."""
        row = self.oracle if self.oracle is not None else self.label_free
        assert row is not None
        return row

    @property
    def off(self) -> str:
        """What is off, as asked for: `80% of MLP neurons`."""
        if self.heads_sparsity is None:
            return f"{percent(self.sparsity)} of {UNITS[self.units]}"
        return f"{percent(self.sparsity)} of {UNITS['mlp']} and {percent(self.heads_sparsity)} of {UNITS['heads']}"


def focus(run: Run) -> Focus:
    """The MLP if it was swept, at the level nearest to 80%; corrected GxO beside magnitude.

    Without corrected GxO the oracle that agrees most stands in; without magnitude, random does.
    """
    rows, plan = run.rows, run.meta.get("plan", {})
    units = next(name for name in ("mlp", "both", "heads") if name in set(rows["units"]))
    levels = rows.loc[rows["units"] == units, "sparsity"].unique()
    sparsity = float(min(levels, key=lambda level: (abs(level - HEADLINE_SPARSITY), -level)))
    at_level = cells(rows, units=units, sparsity=sparsity)
    seen = at_level["metric"].map(is_oracle)
    oracles, plain = at_level[seen].sort_values("agreement", ascending=False), at_level[~seen]
    corrected = oracles[oracles["metric"] == "corrected-gxo"]
    milder = dict(zip(plan.get("sparsity") or [], plan.get("heads_sparsity") or [], strict=False))
    return Focus(
        units,
        sparsity,
        milder.get(sparsity) if units == "both" else None,
        first(corrected if len(corrected) else oracles),
        first(plain),
    )


def headline(at: Focus) -> tuple[str, str]:
    """What was kept, and in the same breath what that is worth: two halves of one sentence."""
    claim = f"With {at.off} off, {name_of(at.main)} keeps {share(at.main['agreement'])} of the dense tokens"
    if at.oracle is None:
        return claim, "; no metric that uses the label was measured beside it."
    if at.label_free is not None:
        claim += f", {name_of(at.label_free)} {share(at.label_free['agreement'])}"
    if np.isnan(at.oracle["leak"]):
        return claim, f"; but {name_of(at.oracle)} uses the label, and how far it leaks was not measured."
    beside = ""
    if at.label_free is not None and not np.isnan(at.label_free["leak"]):
        beside = f" ({name_of(at.label_free)}: {percent(at.label_free['leak'], 0)})"
    return claim, (
        "; but when the runner-up is attributed instead, the sparse model says the runner-up in "
        f"{percent(at.oracle['leak'], 0)} of steps{beside}: these masks use the label."
    )


def first(rows: pd.DataFrame) -> pd.Series | None:
    """The first row, or None."""
    return rows.iloc[0] if len(rows) else None


def name_of(row: pd.Series) -> str:
    """The name of a row's metric as the page writes it."""
    return metric_style(str(row["metric"])).name


def capital(sentence: str) -> str:
    """The sentence with a capital letter first and the rest as it is."""
    return sentence[0].upper() + sentence[1:]
