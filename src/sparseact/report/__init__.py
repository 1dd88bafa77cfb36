"""Pictures and a page for people, made from the files that a sweep or `score` wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparseact.errors import require

if TYPE_CHECKING:
    import numpy as np

__all__ = ["write_heatmap", "write_report"]


def write_report(folder: str | Path) -> None:
    """Write `curve.png` and `report.html` into the folder of a sweep, from that folder's files alone.

    Needs `sweep.csv` and `meta.json`; uses `samples.parquet` (spread over prompts, sampled texts) and
    `diagnostics.parquet` (layers, overlap) where they are there, and says so where they are not.

    Raises:
        InputError: a file is missing, damaged or of another version.
        MissingExtraError: matplotlib, jinja2 or pandas is not installed.
    """
    require("report", "pandas", "pyarrow", "matplotlib", "jinja2")
    from sparseact.report.html import write_report as write

    write(Path(folder))


def write_heatmap(
    scores: Mapping[str, "np.ndarray"], token_labels: Sequence[str], path: str | Path, *, title: str = ""
) -> None:
    """Write a PNG that shows which layers hold the score of each generated token.

    Args:
        scores: `mlp.{layer}` or `heads.{layer}` -> float array [tokens, units].
        token_labels: the text of each of the tokens, in order.
        path: the picture's file.
        title: what stands above it, such as the metric and the prompt; shown as it is.

    Raises:
        InputError: the names or shapes of `scores` are not as above.
        MissingExtraError: matplotlib is not installed.
    """
    require("report", "matplotlib")
    from sparseact.report.heatmaps import write_heatmap as write

    write(scores, token_labels, Path(path), title=title)
