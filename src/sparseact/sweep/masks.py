"""The masks of many cells at once, applied while one batch of runs goes through the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sparseact.evaluation import achieved_sparsity, published_sparsity
from sparseact.sites import UNITS, Site
from sparseact.sweep.plan import Cell


class CellMasks:
    """Row b of a batch runs with the masks of cell b.

    Attributes:
        sites: the sites whose units are masked.
        step: the step that runs, or None while all steps run at once (teacher forcing).
    """

    def __init__(
        self, ranks: Mapping[Site, Tensor], metrics: Sequence[str], cells: Sequence[Cell], *, bug_compatible: bool
    ) -> None:
        """ranks: rank of every unit, int32 [metrics, T, units], by site."""
        self.step: int | None = None
        self.sites = list(ranks)
        self._ranks = ranks
        self._cells = cells
        self._bug_compatible = bug_compatible
        self._metric = torch.tensor([metrics.index(cell.metric) for cell in cells])
        self._keep = {site: torch.tensor([self._count(cell, site) for cell in cells]) for site in self.sites}

    def _count(self, cell: Cell, site: Site) -> int:
        if self._bug_compatible and site.kind in UNITS[cell.units]:
            return site.units - int(cell.sparsity_of(site.kind) * site.units)
        return cell.keep(site)

    def go_to(self, step: int) -> None:
        """From now on one step runs at a time, the one of that index first."""
        self.step = step

    def of(self, site: Site) -> Tensor:
        """Which units are on: bool [cells, steps, units], steps being 1 while one step runs."""
        ranks = self._ranks[site]
        ranks = ranks[self._metric] if self.step is None else ranks[self._metric, self.step, None]
        return ranks < self._keep[site].to(ranks.device)[:, None, None]

    def apply(self, site: Site, x: Tensor) -> Tensor:
        """Switch units off: x is [cells, steps, units, unit_size]."""
        on = self.of(site)
        if self._bug_compatible and not self.step:
            on[:, 0] = True  # the released code leaves the first token dense, and counts its mask
        return x * on.unsqueeze(-1)

    def achieved(self) -> list[float]:
        """Achieved sparsity of each cell over its own units, in weight bytes."""
        off = {site: 1 - self.of(site).float().mean(dim=(1, 2)) for site in self._ranks}
        measure: Callable[..., Tensor] = published_sparsity if self._bug_compatible else achieved_sparsity
        return [
            float(measure({site: off[site][row] for site in off if site.kind in UNITS[cell.units]}))
            for row, cell in enumerate(self._cells)
        ]
