"""How much a unit matters: one forward and one backward for all layers and tokens."""

from sparseact.attribution.attribute import Scores, attribute, attribute_batch
from sparseact.attribution.base import Metric
from sparseact.attribution.interdependency import Interdependency, measure_interdependency
from sparseact.attribution.methods.integrated_gradients import path_gradients
from sparseact.attribution.one_pass import IGNORED, Attribution, attribute_in_one_pass
from sparseact.attribution.registry import METRICS, MetricOptions, make_metric, score_sites

__all__ = [
    "IGNORED",
    "METRICS",
    "Attribution",
    "Interdependency",
    "Metric",
    "MetricOptions",
    "Scores",
    "attribute",
    "attribute_batch",
    "attribute_in_one_pass",
    "make_metric",
    "measure_interdependency",
    "path_gradients",
    "score_sites",
]
