"""The columns of a sweep's tables: what `sweep` writes, `report` reads and docs/files.md says."""

from typing import NamedTuple

VERSION = 1
"""Of meta.json."""


class Column(NamedTuple):
    """One column.

    Attributes:
        range: of the values, or their unit.
        mean_over: what sweep.csv takes the mean over: "tokens", "prompts", or nothing.
    """

    name: str
    type: type
    meaning: str
    range: str = ""
    mean_over: str = ""


_PROMPT, _METRIC = Column("prompt", int, "its index"), Column("metric", str, "whose masks")
_CELL = (
    _METRIC,
    Column("units", str, "what is masked", "mlp, heads, both"),
    Column("sparsity", float, "requested share of units off; of the neurons, where units is `both`", "0 to 1"),
)
_QUALITY = (
    Column("achieved", float, "share of the chosen units' weight bytes not read", "0 to 1", "tokens"),
    Column("agreement", float, "teacher-forced share of steps that give the dense model's token", "0 to 1", "tokens"),
    Column("nll", float, "negative log-likelihood of the label, sparse", "nats per token", "tokens"),
    Column("nll_dense", float, "the same, dense", "nats per token", "tokens"),
    Column("kl", float, "divergence from the dense to the sparse distribution", "nats per token", "tokens"),
    Column("bleu", float, "free-running text against the dense text, effective order", "0 to 100", "prompts"),
    Column("exact", float, "share of texts identical to the dense one", "0 to 1", "prompts"),
    Column("leak", float, "share of steps that emit the runner-up when it is the one attributed", "0 to 1", "tokens"),
)

SWEEP = (
    Column("model", str, "as given"),
    *_CELL,
    *_QUALITY,
    Column("prompts", int, "how many"),
    Column("tokens", int, "how many, of all labels"),
)
"""sweep.csv: one row per metric, units and sparsity."""

SAMPLES = (
    _PROMPT,
    Column("prompt_tokens", int, "its length"),
    Column("question", str, "its text"),
    *_CELL,
    Column("heads_sparsity", float, "requested share of heads off", "0 to 1"),
    Column("tokens", int, "length of the label"),
    *_QUALITY,
    Column("text", str, "free-running, sparse"),
    Column("text_dense", str, "the label"),
)
"""samples.parquet: one row per prompt, metric, units and sparsity; `exact` is a bool here."""

DIAGNOSTICS = (
    _PROMPT,
    Column("quantity", str, "what `value` is", "layer_share, overlap"),
    _METRIC,
    Column("other", str, "the other metric of an overlap"),
    Column("units", str, "of which kind", "mlp, heads"),
    Column("layer", int, "whose share it is; -1 of an overlap"),
    Column("sparsity", float, "of an overlap, else NaN", "0 to 1"),
    Column("value", float, "the layer's share of all |scores|; or of the units kept, what `other` keeps too", "0 to 1"),
)
"""diagnostics.parquet."""

CELL = [column.name for column in _CELL]
"""What names a row of sweep.csv."""


def names(columns: tuple[Column, ...], *, mean_over: str | None = None) -> list[str]:
    """The names of the columns; only of those that are means over `mean_over`, if given."""
    return [column.name for column in columns if mean_over in (None, column.mean_over)]
