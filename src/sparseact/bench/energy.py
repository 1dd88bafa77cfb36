"""Energy of the processors and their memory, where the machine tells: RAPL, read by the package `zeus`.

It is that of the whole machine: what other programs do meanwhile is in it, as it is in the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

RAPL: Final = Path("/sys/class/powercap/intel-rapl")
"""Where Linux has the counters, of AMD's processors too."""


@dataclass(frozen=True)
class Meter:
    """What counts the energy.

    Attributes:
        joules: those since some time before; None where there is no counter.
        said: what is counted, or why nothing is.
    """

    joules: Callable[[], float] | None
    said: str


def open_meter() -> Meter:
    """The machine's meter, or one that says why there is none. The first reading may take a second."""
    if not RAPL.is_dir():
        return Meter(None, f"this machine does not tell its energy (no {RAPL})")
    if find_spec("zeus") is None:
        return Meter(None, "energy is not measured: get zeus with pip install 'sparseact[energy]'")
    from zeus.device.cpu import get_cpus

    try:
        processors = get_cpus().cpus
        joules = lambda: sum(_joules(processor.get_total_energy_consumption()) for processor in processors)  # noqa: E731
        joules()  # starts what watches the counters, which wrap around
    except Exception as error:  # noqa: BLE001 - no permission, a counter missing: said, and not fatal
        return Meter(None, f"energy cannot be read: {' '.join(str(error).split())}")
    return Meter(joules, "energy of processors and memory by RAPL, other programs' included")


def _joules(measured: object) -> float:
    """From millijoules; those of memory where it has a counter of its own."""
    return sum(getattr(measured, part) or 0.0 for part in ("cpu_mj", "dram_mj")) / 1000
