"""How much a unit matters: one forward and one backward for all layers and tokens."""

from typing import TYPE_CHECKING

from sparseact.utils.lazy import on_first_use

if TYPE_CHECKING:
    from sparseact.attribution.base import Metric as Metric
    from sparseact.attribution.interdependency import measure_interdependency as measure_interdependency
    from sparseact.attribution.interdependency_result import Interdependency as Interdependency
    from sparseact.attribution.one_pass import IGNORED as IGNORED
    from sparseact.attribution.one_pass import Attribution as Attribution
    from sparseact.attribution.one_pass import attribute_in_one_pass as attribute_in_one_pass
    from sparseact.attribution.path import path_gradients as path_gradients
    from sparseact.attribution.prompts import attribute as attribute
    from sparseact.attribution.prompts import attribute_batch as attribute_batch
    from sparseact.attribution.registry import METRICS as METRICS
    from sparseact.attribution.registry import MetricOptions as MetricOptions
    from sparseact.attribution.registry import known_metrics as known_metrics
    from sparseact.attribution.registry import make_metric as make_metric
    from sparseact.attribution.registry import score_sites as score_sites
    from sparseact.attribution.scores import Scores as Scores

# The table of metrics is read without torch, by the command line's help and by reports.
__getattr__ = on_first_use(
    __name__,
    {
        "base": ("Metric",),
        "interdependency": ("measure_interdependency",),
        "interdependency_result": ("Interdependency",),
        "one_pass": ("IGNORED", "Attribution", "attribute_in_one_pass"),
        "path": ("path_gradients",),
        "prompts": ("attribute", "attribute_batch"),
        "registry": ("METRICS", "MetricOptions", "known_metrics", "make_metric", "score_sites"),
        "scores": ("Scores",),
    },
)
