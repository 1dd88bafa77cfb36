"""The table of a sweep: every cell over all prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseact.sweep.schema import CELL, SWEEP, names

if TYPE_CHECKING:
    import pandas as pd


def tabulate(samples: pd.DataFrame, model: str) -> pd.DataFrame:
    """The table of sweep.csv from that of samples.parquet: means over tokens, of BLEU and exact over prompts."""
    over_tokens = names(SWEEP, mean_over="tokens")
    frame = samples.copy()
    frame[over_tokens] = frame[over_tokens].mul(frame["tokens"], axis=0)
    groups = frame.groupby(CELL, sort=False)
    tokens = groups["tokens"].sum()
    table = groups[over_tokens].sum().div(tokens, axis=0).join(groups[names(SWEEP, mean_over="prompts")].mean())
    table = table.assign(prompts=groups["prompt"].nunique(), tokens=tokens, model=model)
    return table.reset_index()[names(SWEEP)]


def agreement_text(table: pd.DataFrame) -> str:
    """Agreement by metric and level, to be read."""
    agreement = table.pivot_table(index=["units", "metric"], columns="sparsity", values="agreement", sort=False)
    return agreement.to_string(float_format="{:.3f}".format)
