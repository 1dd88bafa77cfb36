"""A metric from outside: one file of another package runs a whole sweep with its report, and scores a prompt."""

import json
from importlib.metadata import EntryPoint

import pandas as pd
import pytest

from sparseact.attribution import METRICS, known_metrics, make_metric
from sparseact.cli import main
from sparseact.errors import InputError
from sparseact.report.style import SPARE, in_order, metric_style
from sparseact.utils import registry

SOURCE = '''
"""Two metrics: what they say of themselves is all that anything knows of them."""

from sparseact.attribution import Metric


class Fragile(Metric):
    """s = sum_d |g|^p |x|."""

    name = "fragile"
    title = "fragility"
    reads = "own"

    def __init__(self, seed: int = 0, power: float = 1.0) -> None:
        self.seed, self.power = seed, power

    def score(self, x, gradient):
        return (gradient.abs() ** self.power * x.abs()).sum(dim=-1)


class Peak(Metric):
    """s = max_d |x|."""

    name = "peak"
    reads = "none"
    colour, marker = "#123456", "D"

    def score(self, x, gradient):
        return x.abs().amax(dim=-1)


class Unsaid(Metric):
    name = "unsaid"

    def score(self, x, gradient):
        return x


class Unscored(Metric):
    name, reads = "unscored", "own"
'''


@pytest.fixture
def other_packages(monkeypatch, tmp_path):
    points = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    for cached in (known_metrics, metric_style):
        cached.cache_clear()
    yield points
    for cached in (known_metrics, metric_style):
        cached.cache_clear()


@pytest.fixture
def two_metrics(other_packages, monkeypatch, tmp_path):
    (tmp_path / "fragile_metrics.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    for name, kind in (("fragile", "Fragile"), ("peak", "Peak")):
        other_packages.append(EntryPoint(name, f"fragile_metrics:{kind}", "sparseact.metrics"))


def test_a_whole_sweep_with_its_report(two_metrics, tiny_gguf, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["sweep", "--model", str(tiny_gguf), "--metrics", "peak,fragile,gxo,magnitude", "--units", "mlp,heads"]
    command += ["--sparsity", "0.5", "--limit", "2", "--max-new-tokens", "2", "--no-chat", "--out", str(out), "--json"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["metric"] for row in rows} == {"peak", "fragile", "gxo", "magnitude"}
    samples = pd.read_parquet(out / "samples.parquet")
    own = samples[samples["metric"] == "magnitude"].reset_index(drop=True)
    peak = samples[samples["metric"] == "peak"].reset_index(drop=True)
    neurons = own["units"] == "mlp"  # of one entry: their largest is their norm
    pd.testing.assert_frame_equal(peak[neurons].drop(columns="metric"), own[neurons].drop(columns="metric"))

    page = (out / "report.html").read_text(encoding="utf-8")
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    assert [name for name in ("GxO", "fragility", "magnitude", "peak") if f"</svg>\n{name}</td>" in table] == [
        *("GxO", "fragility", "magnitude", "peak")
    ]
    assert table.index("fragility") < table.index("magnitude") < table.index("peak")
    assert table.count("yes (oracle)") == 2
    assert all(f'stroke="{colour}"' in table for colour in (SPARE[0], "#123456"))


def test_scores_of_a_prompt(two_metrics, tiny_gguf, tmp_path, capsys):
    options = ["--model", str(tiny_gguf), "--max-new-tokens", "2", "--out", str(tmp_path / "run"), "--no-chat"]
    assert main(["score", "--prompt", "Hi", "--metric", "fragile", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "fragile"
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["metric"] == "fragile"


def test_it_takes_the_options_it_names_and_stands_among_its_kind(two_metrics):
    made = make_metric("fragile")
    assert (made.seed, made.power) == (0, 1.0)
    assert in_order(["random", "peak", "magnitude", "fragile", "gradient-abs"]) == [
        *("gradient-abs", "fragile", "magnitude", "peak", "random")
    ]
    assert metric_style("fragile").oracle
    assert not metric_style("peak").oracle


def test_an_unknown_name_lists_it(two_metrics):
    with pytest.raises(InputError, match=r"Did you mean fragile\? Valid: .*, peak"):
        make_metric("fragil")


def test_an_entry_point_cannot_replace_a_built_in_metric(other_packages):
    other_packages.append(EntryPoint("gxo", "sparseact.attribution.methods.snip:SNIP", "sparseact.metrics"))
    assert known_metrics()["gxo"] is METRICS["gxo"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_package:Fragile", r"metrics: fragile \(no_such_package:Fragile\) cannot be imported"),
        ("math:sqrt", r"metrics: fragile: .* is no subclass of attribution\.Metric"),
        ("fractions:Fraction", r"metrics: fragile: .* is no subclass of attribution\.Metric"),
        ("fragile_metrics:Unscored", r"metrics: fragile: .*Unscored'> is no subclass of .* with a `score`"),
        ("fragile_metrics:Unsaid", r"metrics: fragile: `reads` of .*Unsaid'> is none of none, own, path"),
    ],
)
def test_what_is_no_metric_is_refused_in_one_line(two_metrics, other_packages, value, said):
    other_packages.clear()
    other_packages.append(EntryPoint("fragile", value, "sparseact.metrics"))
    with pytest.raises(InputError, match=said) as caught:
        make_metric("gxo")
    assert "\n" not in str(caught.value)
