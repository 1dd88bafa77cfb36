"""The report's parts on their own: texts, spread, numbers, heatmaps and colours."""

import numpy as np
import pandas as pd
import pytest

from sparseact.attribution import METRICS
from sparseact.errors import InputError
from sparseact.report import write_heatmap
from sparseact.report.frames import bootstrap, interval
from sparseact.report.heatmaps import layer_shares, token_label
from sparseact.report.style import DARK, LIGHT, SPARE, percent, share
from sparseact.report.texts import answer


@pytest.mark.parametrize(
    ("text", "dense", "shared", "rest"),
    [
        ("The sky is green.", "The sky is grey.", "The sky is ", "green."),
        ("same", "same", "same", ""),
        ("The sky", "The sky is blue", "The sky", ""),
        ("The sky is blue and", "The sky is blue", "The sky is ", "blue and"),
        ("", "The sky", "", ""),
    ],
)
def test_texts_part_at_the_word_in_which_they_differ(text, dense, shared, rest):
    found = answer("gxo", pd.Series({"text": text, "text_dense": dense, "agreement": 0.5}))
    assert (found.shared, found.rest, found.identical) == (shared, rest, text == dense)


def test_bootstrap_is_the_plain_loop_over_drawn_prompts():
    values, weights = np.array([[0.1], [0.7], [0.4]]), np.array([10.0, 1.0, 5.0])
    counts = np.random.default_rng(0).multinomial(3, [1 / 3] * 3, size=50)
    for mean, drawn in zip(bootstrap(values, weights, draws=50), counts, strict=True):
        picked = np.repeat(np.arange(3), drawn)
        assert mean[0] == pytest.approx((values[picked, 0] * weights[picked]).sum() / weights[picked].sum())


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        low, high = interval(rng.normal(0.6, 0.2, 60), np.ones(60))
        covered += low <= 0.6 <= high
    assert 270 <= covered <= 297
    assert np.isnan(interval(np.array([0.5, np.nan]), np.ones(2))).all()


def test_shares_and_levels_read_as_in_the_paper():
    assert [share(v) for v in (0.953, 1.0, 0.0, 0.9999)] == [".95", "1.00", ".00", "1.00"]
    assert [percent(v) for v in (0.8, 1 / 3, 0.0)] == ["80%", "33.3%", "0%"]
    assert percent(float("nan"), 0) == "–"


def test_layer_shares_of_a_hand_made_case():
    scores = {
        "mlp.10": np.array([[0.0, -2.0], [0.0, 0.0]]),
        "mlp.2": np.array([[1.0, -5.0], [0.0, 0.0]]),
        "heads.0": np.array([[3.0], [1.0]]),
    }
    shares = layer_shares(scores)
    np.testing.assert_array_equal(shares["mlp"], [[0.75, 0.0], [0.25, 0.0]])  # layer 2 first: a number, not text
    np.testing.assert_array_equal(shares["heads"], [[1.0, 1.0]])


@pytest.mark.filterwarnings("error")  # a character without a glyph would warn
def test_heatmap_draws_any_token_text(tmp_path):
    rng = np.random.default_rng(0)
    labels = [" The", "\n", "", "$x^{", "\\frac", "你好", "🙂", "x" * 40, "\x00\u202e", "<b>", "%", "_{"]
    scores = {f"{kind}.{i}": rng.normal(size=(len(labels), 7)) for kind in ("mlp", "heads") for i in range(4)}
    path = tmp_path / "deep" / "heat.png"
    write_heatmap(scores, labels, path, title="$\\bad{ corrected-gxo 你")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [token_label(text) for text in (" a b", "\n", "", "x" * 40)] == ["·a·b", "↵", "∅", "x" * 13 + "…"]


@pytest.mark.parametrize(
    "scores",
    [
        {},
        {"mlp": np.ones((2, 3))},
        {"mlp.0": np.ones(2)},
        {"mlp.0": np.ones((3, 3))},
        {"mlp.0": np.ones((2, 3)), "mlp.1": np.ones((1, 3))},
    ],
)
def test_heatmap_refuses_scores_of_other_shapes(tmp_path, scores):
    with pytest.raises(InputError, match=r"^scores: "):
        write_heatmap(scores, ["a", "b"], tmp_path / "heat.png")
    assert not list(tmp_path.iterdir())


def test_colours_stay_apart_for_the_colour_blind_and_show_on_both_papers():
    colours = np.array([_linear(colour) for colour in (*(metric.colour for metric in METRICS.values()), *SPARE)])
    # Machado, Oliveira, Fernandes 2009, severity 1: normal, deuteranopia, protanopia.
    sights = [
        np.eye(3),
        np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
        np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    ]
    for sight in sights:
        lab = _lab(np.clip(colours @ sight.T, 0, 1))
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        assert distance[~np.eye(len(lab), dtype=bool)].min() > 22
    luminance = np.array([0.2126, 0.7152, 0.0722])
    for paper in (LIGHT.paper, DARK.paper):
        levels = colours @ luminance + 0.05, _linear(paper) @ luminance + 0.05
        assert np.maximum(levels[0] / levels[1], levels[1] / levels[0]).min() > 2


def _linear(colour):
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lab(linear):
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)
