"""How much a unit matters: one forward and one backward for all layers and tokens."""

from sparseact.scores.attribute import Scores, attribute, attribute_batch
from sparseact.scores.integrated_gradients import path_gradients
from sparseact.scores.interdependency import Interdependency, measure_interdependency
from sparseact.scores.metric import Metric
from sparseact.scores.metrics import METRICS, MetricOptions, make_metric, score_sites
from sparseact.scores.one_pass import IGNORED, Attribution, attribute_in_one_pass

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
