"""What was counted of one kind of fault, and the table of all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Row:
    """One kind.

    Attributes:
        kind: what was done.
        tried: how often.
        wrong: how often it ended otherwise than it should: a crash, a traceback, another exit code, a wrong answer, a
            file that is half-written.
        lost: how often what had been done, or had stood there before, was not found again.
        seconds: that all took, one after the other.
        said: a line for each that was wrong or lost.
        detail: further counts.
    """

    kind: str
    tried: int = 0
    wrong: int = 0
    lost: int = 0
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)

    def add(self, wrong: str, seconds: float, lost: str = "") -> None:
        """One more that was tried."""
        self.tried += 1
        self.wrong += bool(wrong)
        self.lost += bool(lost)
        self.seconds += seconds
        self.said += [line for line in (wrong, lost) if line]

    def as_json(self) -> dict[str, Any]:
        """A line of the results file."""
        return asdict(self) | {"seconds": round(self.seconds, 1)}


def as_markdown(rows: Iterable[dict[str, Any]]) -> str:
    """The table, and what was wrong under it."""
    rows = list(rows)
    lines = ["| kind of fault | tried | wrong | lost | seconds |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        counts = " | ".join(f"{row[name]:,}" for name in ("tried", "wrong", "lost"))
        lines.append(f"| {row['kind']} | {counts} | {row['seconds']:,.0f} |")
    said = [f"- {' '.join(line.split())[:300]}" for row in rows for line in row["said"]]
    machines = dict.fromkeys(_machine(row["environment"]) for row in rows)
    return "\n".join([*lines, "", *said, *([""] if said else []), *machines, ""])


def _machine(environment: dict[str, Any]) -> str:
    cpu, cores, platform, python = (environment[name] for name in ("cpu", "cores", "platform", "python"))
    return f"{cpu}, {cores} cores, {platform}, Python {python}."
