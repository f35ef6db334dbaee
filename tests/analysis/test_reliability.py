"""Reliability diagrams, of a study's arms and of any predictions."""

import numpy as np
import pytest
from helpers.synthetic_records import make, predicted
from matplotlib.backends.backend_agg import FigureCanvasAgg

import mldiv
from analysis.figures import reliability
from analysis.records import load
from analysis.stats.calibration import reliability as binned
from mldiv.records.study_files import trial_folder


def test_diagram_pools_predictions_and_averages_eces():
    draws = np.random.default_rng(0)
    members = [
        predicted(draws.random(300) < 0.7, draws.random(300), draws.uniform(0.2, 1, 300), draws.uniform(0.2, 1, 300))
        for _ in range(4)
    ]
    found = reliability.diagram({1: members[:2], 2: members[2:]})
    confidence, correct = (np.concatenate([getattr(member, name) for member in members]) for name in ("confidence", "correct"))
    assert found.raw.accuracy == pytest.approx(binned(confidence, correct).accuracy, nan_ok=True)
    assert found.raw.count.sum() == 1200
    each = [100 * binned(member.confidence, member.correct).ece for member in members]
    assert found.ece.mean == pytest.approx(np.mean(each)) and found.ece.n == 2
    assert found.ece.error == pytest.approx(abs(np.mean(each[:2]) - np.mean(each[2:])) / 2)
    again = binned(np.concatenate([member.scaled_confidence for member in members]), correct)
    assert found.scaled.accuracy == pytest.approx(again.accuracy, nan_ok=True)
    scaled = [100 * binned(member.scaled_confidence, member.correct).ece for member in members]
    assert found.scaled_ece.mean == pytest.approx(np.mean(scaled))


def test_the_band_is_that_of_one_test_set():
    """Pooled copies of one test set are no more images: the band must stay as wide. A calibrated model is mostly inside."""
    draws = np.random.default_rng(1)
    confidence = draws.uniform(0.2, 1, 2000)
    member = predicted(draws.random(2000) < confidence, confidence, confidence)
    single, pooled = (reliability.diagram({seed: [member] for seed in range(seeds)}) for seeds in (1, 5))
    assert pooled.band == pytest.approx(single.band, abs=0.02, nan_ok=True)
    assert np.nanmean(single.band[1] - single.band[0]) > 0.1
    filled = single.raw.count >= reliability.LEAST_PREDICTIONS
    inside = (single.band[0] <= single.raw.accuracy) & (single.raw.accuracy <= single.band[1])
    assert inside[filled].mean() > 0.75
    wrong = reliability.diagram({1: [predicted(draws.random(2000) < confidence - 0.15, confidence, confidence)]})
    assert ((wrong.raw.accuracy < wrong.band[0])[filled]).mean() > 0.75


def test_the_diagram_files_take_single_networks_and_any_name(tmp_path):
    folder = make(tmp_path, {"a $x_1$": [0.5, 0.6], "b": [0.4, 0.5]}, members={"b": "peers"})
    study = load.load(folder)
    found = {arm: {seed: study.predictions(arm, seed) for seed in study.finished(arm)} for arm in study.arms}
    assert len(found["b"][1]) == 2
    paths = reliability.draw(study, found, {"b": 1.5}, tmp_path)
    assert [path.name for path in paths] == ["reliability.png", "reliability.pdf"]
    assert paths[0].read_bytes()[:4] == b"\x89PNG" and trial_folder(folder, "0000").exists()
    assert reliability.draw(study, {}, {}, tmp_path) == []


@pytest.mark.parametrize("panels", [1, 2, 3, 5])
def test_titles_and_legends_stay_within_the_picture(tmp_path, panels):
    """A lone panel's legend was cut off at both sides."""
    one = (np.array([0.2, 0.6, 0.9]), np.array([False, True, True]))
    figure = reliability.plot({f"method {place}": one for place in range(panels)}, "a long title of many words " * 4)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for text in (*figure.legends[0].get_texts(), figure._suptitle):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, text.get_text()


def test_a_plot_says_which_bins_it_leaves_out():
    """Of few predictions it showed none, and nothing said why; the report's caption does."""
    figure = reliability.plot({"few": (np.linspace(0.1, 0.9, 20), np.arange(20) % 2)})
    assert not len(figure.axes[0].lines[1].get_xdata())
    assert "as it is, bins of 10 predictions or more" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_band_is_drawn_in_every_bin_that_has_predictions():
    """That of the last one before an empty bin was missing, and so was that of a lone one."""
    sure = np.array([0.22, 0.23, 0.37, 0.38, 0.43, 0.44, 0.98])  # of 15 bins those from 3/15, 5/15 and 6/15, 14/15
    (band,) = reliability.plot({"gaps": (sure, sure > 0.3)}).axes[0].collections
    ends = [15 * path.get_extents().intervalx for path in band.get_paths()]
    assert np.allclose(ends, [[3, 4], [5, 7], [14, 15]])


def test_a_plot_of_ones_own_predictions_says_their_ece():
    """By hand: two bins of two predictions each, 0.5 and 0.15 off; torch's booleans and lists are taken too."""
    figure = mldiv.reliability_diagram({"mine": ([0.5, 0.5, 0.85, 0.85], [False, False, True, True])})
    title = figure.axes[0].get_title()
    assert title.startswith("mine\nECE 32.50 %; if calibrated ") and title.endswith("\n4 predictions")
    assert [bar.get_height() for bar in figure.axes[1].patches if bar.get_height()] == [2, 2]
    figure = mldiv.reliability_diagram({1: ([0.5], [True]), 2: ([0.5], [True])})  # by seed
    assert [axes.get_title().partition("\n")[0] for axes in figure.axes[::2]] == ["1", "2"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "no predictions"),
        (([0.5], [True]), "no predictions by name in a tuple"),
        ({"a": np.array([0.5, 0.6, 0.7])}, r"a: expected \(confidence, correct\), not a ndarray"),
        ({"a": 0.5}, "not a float"),
        ({"a": ([0.5], [True, False])}, r"a: .* \[1\] and \[2\]"),
        ({"a": ([[0.5, 0.5]], [[True, False]])}, r"\[1, 2\]"),
        ({"a": ([], [])}, r"\[0\] and \[0\]"),
        ({"a": ([50.0], [True])}, "from 0 to 1"),
        ({"a": ([float("nan")], [True])}, "from 0 to 1"),
        ({"a": ([0.5], [7])}, "True or False"),
        ({"a": (["x"], [True])}, "a: could not convert string to float: 'x'"),
    ],
)
def test_predictions_that_are_none_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        reliability.plot(given)
