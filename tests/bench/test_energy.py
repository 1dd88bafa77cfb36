"""Energy where the machine tells, and a reason where it does not."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from sparseact.bench import energy
from sparseact.bench.energy import Meter, open_meter
from sparseact.bench.runner import Times
from sparseact.bench.session import Work, sample


def zeus(monkeypatch, get_cpus):
    """A machine with counters, and a package that reads them so."""
    monkeypatch.setattr(energy, "RAPL", SimpleNamespace(is_dir=lambda: True))
    monkeypatch.setattr(energy, "find_spec", lambda name: name == "zeus")
    for name in ("zeus", "zeus.device", "zeus.device.cpu"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["zeus.device.cpu"].get_cpus = get_cpus


def test_joules_are_those_of_all_processors_and_their_memory(monkeypatch):
    counted = iter(range(1000))

    def read():
        return SimpleNamespace(cpu_mj=1000.0 * next(counted), dram_mj=500.0)

    one = SimpleNamespace(get_total_energy_consumption=read)
    other = SimpleNamespace(get_total_energy_consumption=lambda: SimpleNamespace(cpu_mj=2000.0, dram_mj=None))
    zeus(monkeypatch, lambda: SimpleNamespace(cpus=[one, other]))
    meter = open_meter()
    assert meter.joules() == pytest.approx(1 + 0.5 + 2)  # the reading before it was the first
    assert meter.joules() == pytest.approx(2 + 0.5 + 2)
    assert "RAPL" in meter.said


def test_a_machine_that_does_not_tell_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(energy, "RAPL", tmp_path / "none")
    assert open_meter() == Meter(None, f"this machine does not tell its energy (no {tmp_path / 'none'})")
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    monkeypatch.setattr(energy, "find_spec", lambda name: None)
    assert "pip install 'sparseact[energy]'" in open_meter().said


def test_counters_that_may_not_be_read_are_no_error(monkeypatch):
    def refuse():
        raise PermissionError("RAPL requires\n root")

    zeus(monkeypatch, refuse)
    assert open_meter() == Meter(None, "energy cannot be read: RAPL requires root")


class Runner:
    """Takes 2 s for a prompt and 5 s for what follows, on two cores."""

    def prefill(self, ids):
        return Times(2.0, 3.0, 0.0)

    def decode(self, tokens):
        return Times(5.0, 8.0, 1.0), [0] * tokens


def test_a_sample_counts_energy_and_processors_of_decoded_tokens_only():
    joules = iter([100.0, 120.0])
    work = Work(range(8), prompt=4, tokens=10)
    found = sample(Runner(), work, 2, Meter(lambda: next(joules), "counted"))
    assert found == {
        "prefill": 2.0,
        "decode": 2.0,
        "processor_seconds": 0.8,
        "joules": 2.0,
        "disturbed": ["decode"],
    }
    assert sample(Runner(), work, 2, Meter(None, "none"))["joules"] is None
