"""How metrics, units and numbers look: the same name, colour and marker wherever they appear."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

from sparseact.attribution.registry import known_metrics
from sparseact.errors import InputError

# For metrics of other packages that bring no colour. These and the nine built-in ones stay apart (CIE76 distance of 22
# or more) in normal, protanope and deuteranope sight, and each can be read on both papers below; markers tell them
# apart once more.
SPARE: Final = ("#38C8C8", "#D8B060", "#1040B0", "#504858")


@dataclass(frozen=True)
class MetricStyle:
    """The look of one metric; `marker` is a matplotlib marker, and that of an oracle is hollow."""

    name: str
    colour: str
    marker: str
    oracle: bool


UNITS: Final = {
    "mlp": "MLP neurons",
    "heads": "attention heads",
    "both": "MLP neurons and attention heads",
}


@dataclass(frozen=True)
class Theme:
    """Colours of a picture that do not stand for data."""

    ink: str
    muted: str
    grid: str
    paper: str
    colormap: str  # low values are the paper's shade, so that little looks like little


LIGHT: Final = Theme(ink="#1b1f24", muted="#59636e", grid="#e3e6ea", paper="#ffffff", colormap="Blues")
DARK: Final = Theme(ink="#e8eaed", muted="#a3abb5", grid="#30363d", paper="#16191d", colormap="cividis")


@cache
def metric_style(name: str) -> MetricStyle:
    """The look of a metric by its command-line name; one line of error for a name no sweep writes."""
    known = known_metrics()
    if name not in known:
        raise InputError(f"sweep.csv: unknown metric {name!r}; installed are {', '.join(known)}")
    metric, plain = known[name], [name for name, metric in known.items() if not metric.colour]
    colour = metric.colour or SPARE[plain.index(name) % len(SPARE)]
    return MetricStyle(metric.title or name, colour, metric.marker, metric.is_oracle())


def is_oracle(metric: str) -> bool:
    """Whether a metric's masks were made with the label."""
    return metric_style(metric).oracle


def in_order(metrics: Iterable[str]) -> list[str]:
    """Metrics in the order of legends and tables: oracles first, the control last."""
    given = set(metrics)
    return [name for name in known_metrics() if name in given]


def share(value: float) -> str:
    """A share of 0 to 1 with two decimals and no leading zero: `.95`, `1.00`; a dash for NaN."""
    return number(value).removeprefix("0") if value < 1 else number(value)


def number(value: float, decimals: int = 2) -> str:
    """A number with fixed decimals; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"


def percent(value: float, decimals: int | None = None) -> str:
    """A share as per cent: `80%`, `33.3%`; whole numbers get no decimals unless asked for."""
    if math.isnan(value):
        return "–"
    return f"{value * 100:.{decimals}f}%" if decimals is not None else f"{round(value * 100, 1):g}%"
