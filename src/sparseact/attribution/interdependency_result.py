"""What the measurement of interdependency found: rows, tables on disk, and a summary."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparseact.recipes.site import UnitKind
from sparseact.utils.files import write_atomically

MIDDLE = 0.5  # of the theorem's interval: the paper's corrective term


@dataclass(frozen=True)
class Change:
    """How much a layer's attributions change when the lowest-scored units of all layers are off.

    Attributes:
        units: which kind is off and measured.
        change: sum |a'_i - a_i| / sum |a_i| over tokens and units that are on; 1 is 100%.
    """

    units: UnitKind
    sparsity: float
    layer: int
    change: float


@dataclass(frozen=True)
class Case:
    """One unit off at one token, by layer, step and index; bounds and error in nats.

    Attributes:
        error: change of the next layer's summed attribution.
        later_error: largest change of any later layer's.
        lemma: bound of Lemma 3.1, the change of the own layer's summed attribution.
        theorem: bound of Theorem 3.3, |x_i| ||g||_2.
        gradient_change: ||g~ - g|| / ||g|| in the own layer, which the theorem takes for 0.
    """

    units: UnitKind
    layer: int
    step: int
    unit: int
    error: float
    later_error: float
    lemma: float
    theorem: float
    gradient_change: float


@dataclass(frozen=True)
class Interdependency:
    """What `measure_interdependency` found for one prompt."""

    changes: list[Change]
    cases: list[Case]

    def save(self, folder: str | Path) -> None:
        """Write interdependency.csv (changes) and interdependency-cases.csv (cases) into `folder`."""
        _write_table(Path(folder) / "interdependency.csv", self.changes)
        _write_table(Path(folder) / "interdependency-cases.csv", self.cases)

    def summary(self) -> dict[str, Any]:
        """By kind of units: median change over layers by sparsity, and how the cases lie in their bounds."""
        return {
            kind: {"change": self._median_changes(kind), "bounds": self.bounds(kind)}
            for kind in dict.fromkeys(change.units for change in self.changes)
        }

    def _median_changes(self, kind: UnitKind) -> dict[float, float]:
        levels = dict.fromkeys(change.sparsity for change in self.changes)
        of_kind = [change for change in self.changes if change.units == kind]
        return {level: statistics.median(c.change for c in of_kind if c.sparsity == level) for level in levels}

    def bounds(self, kind: UnitKind) -> dict[str, float]:
        """How the cases of a kind lie in the paper's bounds."""
        cases = [case for case in self.cases if case.units == kind]
        return {
            "cases": len(cases),
            "inside_lemma": statistics.fmean(case.error <= case.lemma for case in cases),
            "later_inside_lemma": statistics.fmean(case.later_error <= case.lemma for case in cases),
            "inside_theorem": statistics.fmean(case.error <= case.theorem for case in cases),
            "later_inside_theorem": statistics.fmean(case.later_error <= case.theorem for case in cases),
            "lemma_inside_theorem": statistics.fmean(case.lemma <= case.theorem for case in cases),
            "median_error_over_lemma": statistics.median(ratio(case.error, case.lemma) for case in cases),
            "median_later_error_over_lemma": statistics.median(ratio(case.later_error, case.lemma) for case in cases),
            "median_error_over_theorem": statistics.median(ratio(case.error, case.theorem) for case in cases),
            "median_later_error_over_theorem": statistics.median(
                ratio(case.later_error, case.theorem) for case in cases
            ),
            "above_middle_of_theorem": statistics.fmean(case.error > MIDDLE * case.theorem for case in cases),
            "median_gradient_change": statistics.median(case.gradient_change for case in cases),
        }

    def as_text(self) -> str:
        """The summary as two tables."""
        summary = self.summary()
        levels = list(next(iter(summary.values()))["change"])
        lines = ["change of the attributions that stay, median over layers", f"{'sparsity':>10}"]
        lines[1] += "".join(f"{level:>8.0%}" for level in levels)
        for kind, found in summary.items():
            lines.append(f"{kind:>10}" + "".join(f"{change:>8.0%}" for change in found["change"].values()))
        lines += ["", f"{'one unit off at one token':32}" + "".join(f"{kind:>10}" for kind in summary)]
        for key in next(iter(summary.values()))["bounds"]:
            values = [found["bounds"][key] for found in summary.values()]
            lines.append(f"{key.replace('_', ' '):32}" + "".join(f"{value:>10.3g}" for value in values))
        return "\n".join(lines)


def ratio(part: float, whole: float) -> float:
    """Quotient in which nothing of nothing is 0."""
    return part / whole if whole else float("inf") if part else 0.0


def _write_table(path: Path, rows: Sequence[Change] | Sequence[Case]) -> None:
    with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(asdict(rows[0])))
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
