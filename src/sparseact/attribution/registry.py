"""The metrics by name, and their scores for one attribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparseact.attribution.base import Metric
from sparseact.attribution.methods.corrected_gxo import CorrectedGxO, HeadsFormula
from sparseact.attribution.methods.gradient import AbsoluteGradient, SignedGradient
from sparseact.attribution.methods.gxo import GxO
from sparseact.attribution.methods.integrated_gradients import IntegratedGradients
from sparseact.attribution.methods.magnitude import Magnitude
from sparseact.attribution.methods.random import Random
from sparseact.attribution.methods.snip import SNIP, Fisher
from sparseact.errors import InputError, unknown_name
from sparseact.sites import Site


@dataclass(frozen=True)
class MetricOptions:
    """What some of the metrics can be told; see each one's file."""

    correction: float | Literal["auto"] = 0.5
    heads_formula: HeadsFormula = "released"
    seed: int = 0


METRICS: dict[str, Callable[[MetricOptions], Metric]] = {
    "magnitude": lambda options: Magnitude(),
    "gradient": lambda options: SignedGradient(),
    "gradient-abs": lambda options: AbsoluteGradient(),
    "gxo": lambda options: GxO(),
    "snip": lambda options: SNIP(),
    "fisher": lambda options: Fisher(),
    "ig": lambda options: IntegratedGradients(),
    "corrected-gxo": lambda options: CorrectedGxO(options.correction, options.heads_formula),
    "random": lambda options: Random(options.seed),
}


def make_metric(name: str, options: MetricOptions | None = None) -> Metric:
    """The metric called `name`.

    Raises:
        InputError: there is none, or an option is out of range.
    """
    options = options or MetricOptions()
    if name not in METRICS:
        raise unknown_name("metrics: unknown metric", name, METRICS)
    if options.correction != "auto" and not options.correction >= 0:
        raise InputError(f"correction: {options.correction} is not a number of at least 0, or auto")
    if options.heads_formula not in ("released", "theorem"):
        raise unknown_name("heads_formula: unknown formula", options.heads_formula, ("released", "theorem"))
    return METRICS[name](options)


def score_sites(metric: Metric, x: Mapping[Site, Tensor], gradient: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
    """Scores [batch, T, units] of every site.

    Args:
        x, gradient: [batch, T, units, unit_size] by site; the gradient of the kind `metric.reads`.

    Raises:
        InputError: a score is NaN.
    """
    scores = {site: metric.score(x[site], gradient[site]) for site in x}
    for site, score in scores.items():
        if torch.isnan(score).any():
            raise InputError(f"{metric.name}: NaN among the scores of {site.module}, so its units can't be ranked")
    return scores
