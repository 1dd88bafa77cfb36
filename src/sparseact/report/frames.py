"""The files of a sweep's folder, read and checked, and the spread over prompts."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sparseact.errors import InputError
from sparseact.report.style import UNITS, in_order, metric_style
from sparseact.sweep.schema import CELL, DIAGNOSTICS, SAMPLES, SWEEP, VERSION, Column, names

PER_TOKEN: Final = [name for name in names(SWEEP, mean_over="tokens") if name != "achieved"]
PER_PROMPT: Final = names(SWEEP, mean_over="prompts")
DRAWS: Final = 2000


@dataclass(frozen=True)
class Run:
    """What one sweep left behind; a table is empty where its file is not there.

    `rows` is sweep.csv with `agreement_low`, `agreement_high` and so on added: the bootstrap 95%
    interval over prompts, NaN where it cannot be had.
    """

    rows: pd.DataFrame
    samples: pd.DataFrame
    diagnostics: pd.DataFrame
    meta: dict[str, Any]


def read_run(folder: Path) -> Run:
    """Read a sweep's folder.

    Raises:
        InputError: sweep.csv or meta.json is missing, a file is damaged, lacks columns or holds no rows.
    """
    meta = _read_meta(folder / "meta.json")
    rows = _read_table(folder / "sweep.csv", SWEEP)
    if rows.empty:
        raise InputError(f"{folder / 'sweep.csv'}: no rows; run the same `sparseact sweep` again to finish it")
    for units in rows["units"].unique():
        if units not in UNITS:
            raise InputError(f"{folder / 'sweep.csv'}: unknown units {units!r}; valid: {', '.join(UNITS)}")
    for metric in rows["metric"].unique():
        metric_style(metric)
    samples = _read_optional(folder / "samples.parquet", SAMPLES)
    diagnostics = _read_optional(folder / "diagnostics.parquet", DIAGNOSTICS)
    rows = rows.sort_values(CELL, key=_in_legend_order, kind="stable", ignore_index=True)
    return Run(_with_intervals(rows, samples), samples, diagnostics, meta)


def bootstrap(values: np.ndarray, weights: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Weighted means of `values` over prompts drawn with replacement; the same draws for the same seed.

    Args:
        values: [prompts, quantities], without NaN.
        weights: [prompts], positive: a prompt's tokens, or ones.

    Returns:
        float64 [draws, quantities]. Columns share their draws, so differences of columns are paired.
    """
    drawn = _draws(len(values), draws, seed) * weights
    return (drawn @ values) / drawn.sum(axis=1, keepdims=True)


def interval(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval of the weighted mean [prompts]; NaN for fewer than 2 prompts."""
    known = np.isfinite(values) & (weights > 0)
    if known.sum() < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(bootstrap(values[known][:, None], weights[known])[:, 0], [0.025, 0.975])
    return float(low), float(high)


def cells(frame: pd.DataFrame, *, units: str, sparsity: float, metric: str | None = None) -> pd.DataFrame:
    """The rows of one units and level, and of one metric if given."""
    chosen = (frame["units"] == units) & np.isclose(frame["sparsity"].astype(float), sparsity)
    return frame[chosen & (frame["metric"] == metric)] if metric is not None else frame[chosen]


def _with_intervals(rows: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    columns = [*PER_TOKEN, *PER_PROMPT]
    ends = []
    for metric, units, sparsity in zip(rows["metric"], rows["units"], rows["sparsity"], strict=True):
        of_row = cells(samples, units=units, sparsity=sparsity, metric=metric)
        tokens, ones = of_row["tokens"].to_numpy(float), np.ones(len(of_row))
        intervals = (
            interval(of_row[column].to_numpy(float), tokens if column in PER_TOKEN else ones) for column in columns
        )
        ends.append([end for pair in intervals for end in pair])
    names = [f"{column}_{end}" for column in columns for end in ("low", "high")]
    return rows.join(pd.DataFrame(ends, columns=names, index=rows.index))


@lru_cache(maxsize=4)
def _draws(prompts: int, draws: int, seed: int) -> np.ndarray:
    """How often each prompt is drawn, int64 [draws, prompts]; the same for every row of a table."""
    return np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=draws)


def _in_legend_order(column: pd.Series) -> pd.Series:
    orders = {"metric": in_order(column), "units": list(UNITS)}
    return column.map(orders[str(column.name)].index) if column.name in orders else column


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path.parent}: not the folder of a sweep, it holds no {path.name}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({_first_line(error)})") from error
    version = meta.get("version") if isinstance(meta, dict) else None
    if version != VERSION:
        raise InputError(f"{path}: version {version!r}; this sparseact reads version {VERSION}")
    return meta


def _read_optional(path: Path, columns: tuple[Column, ...]) -> pd.DataFrame:
    return _read_table(path, columns) if path.exists() else pd.DataFrame(columns=names(columns))


def _read_table(path: Path, columns: tuple[Column, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except FileNotFoundError as error:
        raise InputError(f"{path.parent}: not the folder of a sweep, it holds no {path.name}") from error
    except (OSError, ValueError) as error:  # pandas' and pyarrow's own errors are kinds of these
        raise InputError(f"{path}: damaged ({_first_line(error)})") from error
    missing = [name for name in names(columns) if name not in table.columns]
    if missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}")
    return table


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
