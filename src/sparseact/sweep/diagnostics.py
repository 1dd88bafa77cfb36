"""Where a metric puts its scores, and how far two metrics keep the same units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sparseact.recipes.selectors import keep_count
from sparseact.sites import Site
from sparseact.sweep.plan import Plan

NONE = {"other": "", "layer": -1, "sparsity": float("nan")}


def diagnose(
    scores: Mapping[str, Mapping[Site, Tensor]], ranks: Mapping[Site, Tensor], plan: Plan
) -> Iterator[dict[str, Any]]:
    """Rows of diagnostics.parquet: `layer_share` by metric and layer, `overlap` by pair and level.

    Args:
        scores: [T, units] by metric and site.
        ranks: [metrics, T, units] by site.
    """
    metrics = list(scores)
    for kind in sorted({site.kind for site in ranks}):
        sites = [site for site in ranks if site.kind == kind]
        for metric, by_site in scores.items():
            mass = [float(by_site[site].abs().sum()) for site in sites]
            for site, part in zip(sites, mass, strict=True):
                share = {"layer": site.layer, "value": part / (sum(mass) or 1.0)}
                yield {"quantity": "layer_share", "units": kind, "metric": metric, **NONE, **share}
        for level in plan.sparsity:
            kept = [(ranks[site] < keep_count(site.units, level)).flatten(1).float() for site in sites]
            both = torch.stack([on @ on.T for on in kept]).double().sum(dim=0).tolist()  # units kept by each pair
            for row, metric in enumerate(metrics):
                for column, other in enumerate(metrics):
                    value = both[row][column] / (both[row][row] or 1)
                    overlap = {"other": other, "sparsity": level, "value": value}
                    yield {"quantity": "overlap", "units": kind, "metric": metric, **NONE, **overlap}
