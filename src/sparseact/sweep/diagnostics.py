"""Where a metric puts its scores, and how far two metrics keep the same units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from sparseact.recipes.selectors import keep_count
from sparseact.sites import Site
from sparseact.sweep.plan import Plan


def diagnose(
    scores: Mapping[str, Mapping[Site, Tensor]], ranks: Mapping[str, Mapping[Site, Tensor]], plan: Plan
) -> Iterator[dict[str, Any]]:
    """Rows of diagnostics.parquet: `layer_share` by metric and layer, `overlap` by pair and level.

    Args:
        scores, ranks: [T, units] by metric and site.
    """
    sites = list(next(iter(scores.values())))
    for kind in sorted({site.kind for site in sites}):
        of_kind = [site for site in sites if site.kind == kind]
        for metric, by_site in scores.items():
            mass = [float(by_site[site].abs().sum()) for site in of_kind]
            for site, share in zip(of_kind, mass, strict=True):
                yield _row("layer_share", kind, metric, layer=site.layer, value=share / (sum(mass) or 1.0))
        for level in plan.sparsity:
            kept = {
                metric: {site: by_site[site] < keep_count(site.units, level) for site in of_kind}
                for metric, by_site in ranks.items()
            }
            for metric in kept:
                for other in kept:
                    both = sum(int((kept[metric][site] & kept[other][site]).sum()) for site in of_kind)
                    total = sum(int(kept[metric][site].sum()) for site in of_kind)
                    yield _row("overlap", kind, metric, other=other, sparsity=level, value=both / (total or 1))


def _row(
    quantity: str,
    units: str,
    metric: str,
    *,
    other: str = "",
    layer: int = -1,
    sparsity: float = float("nan"),
    value: float,
) -> dict[str, Any]:
    return {
        "quantity": quantity,
        "units": units,
        "metric": metric,
        "other": other,
        "layer": layer,
        "sparsity": sparsity,
        "value": value,
    }
