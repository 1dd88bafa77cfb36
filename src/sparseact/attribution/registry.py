"""The metrics by name: one file of methods/ each, and those of other packages; and their scores for one attribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import isabstract, signature
from pkgutil import iter_modules
from typing import TYPE_CHECKING, get_args

from sparseact.attribution import methods
from sparseact.attribution.base import Gradient, Metric
from sparseact.attribution.methods.corrected_gxo import CorrectedGxO, Correction, HeadsFormula
from sparseact.errors import InputError, unknown_name
from sparseact.utils.registry import with_plugins

if TYPE_CHECKING:
    from torch import Tensor

    from sparseact.recipes.site import Site

GROUP = "sparseact.metrics"


def _in_order(metrics: Mapping[str, type[Metric]]) -> dict[str, type[Metric]]:
    return dict(sorted(metrics.items(), key=lambda item: (not item[1].is_oracle(), item[1].place)))


def _of_file(name: str) -> type[Metric]:
    things = vars(import_module(f"{methods.__name__}.{name}")).values()
    return next(thing for thing in things if isinstance(thing, type) and thing.__base__ is Metric)


_FILES = [_of_file(file.name) for file in iter_modules(methods.__path__)]
METRICS = _in_order({metric.name: metric for metric in _FILES})
"""The built-in ones, in the order of legends and tables: oracles first, the control last."""


@dataclass(frozen=True)
class MetricOptions:
    """What some of the metrics can be told; see each one's file."""

    correction: Correction = CorrectedGxO.correction
    heads_formula: HeadsFormula = CorrectedGxO.heads_formula
    seed: int = 0


@cache
def known_metrics() -> dict[str, type[Metric]]:
    """The built-in metrics and those of other packages (entry point group `sparseact.metrics`), in the same order.

    Raises:
        InputError: a package's metric cannot be imported or is none.
    """
    known = with_plugins(GROUP, METRICS)
    for name, metric in known.items():
        if not (isinstance(metric, type) and issubclass(metric, Metric)) or isabstract(metric):
            raise InputError(f"metrics: {name}: {metric!r} is no subclass of attribution.Metric with a `score`")
        if getattr(metric, "reads", None) not in get_args(Gradient):
            raise InputError(f"metrics: {name}: `reads` of {metric!r} is none of {', '.join(get_args(Gradient))}")
    return _in_order(known)


def find_metric(name: str) -> type[Metric]:
    """The metric called `name`.

    Raises:
        InputError: there is none.
    """
    if name not in known_metrics():
        raise unknown_name("metrics: unknown metric", name, known_metrics())
    return known_metrics()[name]


def make_metric(name: str, options: MetricOptions | None = None) -> Metric:
    """The metric called `name` with those of the options that it takes.

    Raises:
        InputError: there is none, or an option is out of range.
    """
    metric = find_metric(name)
    given = vars(options or MetricOptions())
    return metric(**{option: given[option] for option in signature(metric).parameters if option in given})


def score_sites(metric: Metric, x: Mapping[Site, Tensor], gradient: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
    """Scores [batch, T, units] of every site.

    Args:
        x, gradient: [batch, T, units, unit_size] by site; the gradient of the kind `metric.reads`.

    Raises:
        InputError: a score is NaN.
    """
    scores = {site: metric.score(x[site], gradient[site]) for site in x}
    for site, score in scores.items():
        if score.isnan().any():
            raise InputError(f"{metric.name}: NaN among the scores of {site.module}, so its units can't be ranked")
    return scores
