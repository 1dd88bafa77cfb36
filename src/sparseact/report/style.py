"""How metrics, units and numbers look: the same name, colour and marker wherever they appear."""

import math
from dataclasses import dataclass
from typing import Final

from sparseact.errors import InputError

# Metrics whose score does not depend on the label. Every other metric differentiates the loss of the
# very token that is then counted as kept: an oracle.
LABEL_FREE: Final = frozenset({"magnitude", "random"})


@dataclass(frozen=True)
class MetricStyle:
    """The look of one metric; `marker` is a matplotlib marker."""

    name: str
    colour: str
    marker: str


# The nine colours stay apart (CIE76 distance of 22 or more) in normal, protanope and deuteranope sight,
# and each can be read on both papers below; markers tell them apart once more.
METRICS: Final = {
    "corrected-gxo": MetricStyle("corrected GxO", "#E0670A", "o"),
    "gxo": MetricStyle("GxO", "#E1AA90", "s"),
    "ig": MetricStyle("IG", "#963F96", "D"),
    "snip": MetricStyle("SNIP", "#2B8846", "^"),
    "fisher": MetricStyle("Fisher", "#10BBE8", "v"),
    "gradient": MetricStyle("gradient", "#B01010", "P"),
    "gradient-abs": MetricStyle("|gradient|", "#3A46F0", "X"),
    "magnitude": MetricStyle("magnitude", "#0086E3", "o"),
    "random": MetricStyle("random", "#808080", "s"),
}
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


def metric_style(metric: str) -> MetricStyle:
    """The look of a metric by its command-line name; one line of error for a name no sweep writes."""
    if metric not in METRICS:
        raise InputError(f"sweep.csv: unknown metric {metric!r}; this version knows {', '.join(METRICS)}")
    return METRICS[metric]


def is_oracle(metric: str) -> bool:
    """Whether a metric's masks were made with the label."""
    return metric not in LABEL_FREE


def in_order(metrics: list[str]) -> list[str]:
    """Metrics in the order of legends and tables: oracles first, the control last."""
    return sorted(set(metrics), key=list(METRICS).index)


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
