"""Where sparse decoding begins to pay: by hand."""

import importlib
from pathlib import Path

import pytest

from sparseact.bench.shapes import shape_of

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("break_even")


@pytest.mark.parametrize(
    ("ratios", "density"),
    [
        ({0.7: 0.8, 0.5: 0.9, 0.3: 1.1}, 0.4),  # half-way between .5 and .3
        ({0.3: 0.9, 0.5: 1.1}, 0.5),  # of what was measured the highest
        ({0.7: 0.8, 0.3: 0.9}, None),
    ],
)
def test_the_density_from_which_on_it_pays(script, ratios, density):
    assert script.pays_below(ratios) == (density if density is None else pytest.approx(density))


def test_what_the_kernels_promise_is_time_by_bytes_and_rates(script):
    architecture = shape_of("smollm2-135m")
    part = 30 * 576 * 1536
    whole = 3 * part + 30 * 2 * 576 * (576 + 192) + 49152 * 576
    assert script.promise(architecture, "q8", 0.5, None) == pytest.approx(whole / (whole - part))
    rates = {"stream": 30.0, "rows": {0.5: 15.0}, "columns": {0.5: 10.0}}  # twice and three times as slow
    assert script.promise(architecture, "q8", 0.5, rates) == pytest.approx(
        whole / (whole - 2 * part + part + 1.5 * part)
    )


def row(rule, density, ratio):
    return {"rule": rule, "density": density, "ratio_to_dense": ratio, "bytes_per_token": 1e8,
            "spread": {"ratio_to_dense": [ratio - 0.1, ratio + 0.2]}}  # fmt: skip


def test_the_table_and_the_picture_have_every_point(script):
    from matplotlib.figure import Figure

    rows = [
        row("gate", 0.5, 0.9),
        row("gate", 0.3, 1.1),
        row("inputs", 0.5, 0.8),
        row("inputs", 0.3, 1.2),
        row(None, 1.0, 1.0),
    ]
    lines = script.table(rows, {0.5: 1.05, 0.3: 1.2}).splitlines()
    assert lines[2] == "| 0.5 | 0.90 [0.80, 1.10], 100 MB | 0.80 [0.70, 1.00], 100 MB | 1.05 |"
    assert script.speed_ups(rows, "inputs") == {0.5: 0.8, 0.3: 1.2}
    ax = Figure().subplots()
    script.draw(ax, rows, {0.5: 1.05, 0.3: 1.2}, {0.5: 1.2, 0.3: 1.4})
    drawn = ax.containers[0].lines[0]
    assert drawn.get_xydata().tolist() == [[0.3, 1.1], [0.5, 0.9]]
