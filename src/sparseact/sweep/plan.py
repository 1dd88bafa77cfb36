"""What a sweep evaluates: every metric, kind of units and level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparseact.attribution.methods.corrected_gxo import CorrectedGxO, Correction, HeadsFormula
from sparseact.attribution.methods.integrated_gradients import STEPS
from sparseact.attribution.registry import MetricOptions, make_metric
from sparseact.errors import InputError, unknown_name
from sparseact.recipes.selectors import keep_count
from sparseact.recipes.site import UNITS, Site, UnitKind

DEFAULT_METRICS = ("corrected-gxo", "gxo", "snip", "gradient", "magnitude", "random")
DEFAULT_SPARSITY = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Cell:
    """One curve point: a metric's masks on some units at a level.

    Attributes:
        sparsity: requested share of units off; of the neurons, where both kinds are masked.
        heads_sparsity: requested share of heads off.
    """

    metric: str
    units: str
    sparsity: float
    heads_sparsity: float

    def keep(self, site: Site) -> int:
        """How many of a site's units stay on."""
        if site.kind not in UNITS[self.units]:
            return site.units
        return keep_count(site.units, self.sparsity_of(site.kind))

    def sparsity_of(self, kind: UnitKind) -> float:
        """The requested sparsity of one kind of units."""
        return self.sparsity if kind == "mlp" else self.heads_sparsity


@dataclass(frozen=True)
class Plan:
    """Settings of a sweep; the same plan, model and prompts give the same sweep.csv.

    Attributes:
        metrics: names in `attribution.known_metrics`.
        units: any of "mlp", "heads", "both".
        sparsity: requested levels, 0 to 1.
        heads_sparsity: levels for heads, one per entry of `sparsity`; the same levels if None.
        correction, heads_formula: of corrected GxO.
        ig_steps: steps of integrated gradients.
        max_new_tokens: length of the label at most.
        chat: use the tokenizer's chat template where it has one.
        bug_compatible: the released code's protocol: only the first 75% of layers are masked, the
            first token is dense, levels round down, heads weigh 1/3 and neurons 2/3, BLEU without
            effective order.

    Raises:
        InputError: an option is unknown or out of range.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    units: tuple[str, ...] = ("mlp", "heads", "both")
    sparsity: tuple[float, ...] = DEFAULT_SPARSITY
    heads_sparsity: tuple[float, ...] | None = None
    correction: Correction = CorrectedGxO.correction
    heads_formula: HeadsFormula = CorrectedGxO.heads_formula
    ig_steps: int = STEPS
    max_new_tokens: int = 16
    seed: int = 0
    chat: bool = True
    bug_compatible: bool = False

    def __post_init__(self) -> None:
        for name in self.metrics:
            make_metric(name, self.metric_options(0))
        for name in self.units:
            if name not in UNITS:
                raise unknown_name("units: unknown units", name, UNITS)
        _check_list("metrics", self.metrics)
        _check_list("units", self.units)
        _check_list("sparsity", self.sparsity)
        _check_levels("sparsity", self.sparsity)
        if self.heads_sparsity is not None:
            _check_levels("heads_sparsity", self.heads_sparsity)
            if len(self.heads_sparsity) != len(self.sparsity):
                raise InputError(
                    f"heads_sparsity: {len(self.heads_sparsity)} levels for the {len(self.sparsity)} of "
                    "`sparsity`; one for each is needed"
                )
        for option, number in (("ig_steps", self.ig_steps), ("max_new_tokens", self.max_new_tokens)):
            if number < 1:
                raise InputError(f"{option}: {number} is not at least 1")

    def metric_options(self, prompt: int) -> MetricOptions:
        """Options of the metrics for the prompt of that index; each has random scores of its own."""
        return MetricOptions(self.correction, self.heads_formula, seed=self.seed * 1_000_003 + prompt)

    def cells(self) -> list[Cell]:
        """Every curve point, in the order of the table."""
        heads = self.heads_sparsity or self.sparsity
        return [
            Cell(metric, units, milder if units == "heads" else level, milder)
            for metric in self.metrics
            for units in self.units
            for level, milder in zip(self.sparsity, heads, strict=True)
        ]

    def as_json(self) -> dict[str, Any]:
        """What meta.json records and a resumed run must match."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def _check_list(option: str, values: Sequence[object]) -> None:
    if not values:
        raise InputError(f"{option}: at least one is needed")
    if len(set(values)) != len(values):
        raise InputError(f"{option}: {', '.join(map(str, values))} names something twice")


def _check_levels(option: str, levels: Sequence[float]) -> None:
    for level in levels:
        if not 0 <= level <= 1:
            raise InputError(f"{option}: {level} is not between 0 and 1")
