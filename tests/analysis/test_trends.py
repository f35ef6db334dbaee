"""Effects against a size: the line, its rise and its bend are numpy's; a planted one comes through the records to the page."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers.synthetic_records import make

from analysis import build
from analysis.report import trends
from analysis.stats.trend import bend_weights, line_weights, slope_weights
from mldiv.records import study_files

SIZES = np.array([1e5, 2e5, 4e5, 16e5])
AXIS = "images seen by a peer"


def test_the_weights_are_those_of_least_squares():
    generator = np.random.default_rng(0)
    for n in (3, 4, 7):
        size, value = np.exp(generator.uniform(0, 9, n)), generator.standard_normal(n)
        line, parabola = (np.polyfit(np.log2(size), value, degree) for degree in (1, 2))
        assert slope_weights(size) @ value == pytest.approx(line[0])
        assert line_weights(size, 15e6) @ value == pytest.approx(np.polyval(line, np.log2(15e6)))
        assert bend_weights(size) @ value == pytest.approx(parabola[0])


def test_too_few_sizes_are_refused():
    with pytest.raises(ValueError, match="a line needs two different sizes, got 1"):
        line_weights(np.array([3.0, 3.0]), 9)
    with pytest.raises(ValueError, match="a bend needs three different sizes, got 2"):
        bend_weights(np.array([3.0, 4.0]))


def grown(folder, effect, seeds=5, predictions=False, **changed):
    """A study whose effect of both terms at each size is as given, with noise of its own and seeds at levels of theirs."""
    generator, names = np.random.default_rng(1), [f"size {place}" for place in range(len(SIZES))]
    nll = {}
    for place, name in enumerate(names):
        plain = 0.6 + 0.05 * generator.standard_normal(seeds)
        nll |= {
            f"plain, {name}": list(plain),
            f"both, {name}": list(plain + effect(SIZES[place]) + 0.0005 * generator.standard_normal(seeds)),
        }
    family = {f"both terms, {name}": {f"both, {name}": 1.0, f"plain, {name}": -1.0} for name in names}
    axis = {AXIS: {"both terms": {f"both terms, {name}": float(size) for name, size in zip(names, SIZES, strict=True)}}}
    return make(folder, nll, predictions=predictions, contrasts=family, trends=axis, **changed)


def test_a_planted_line_is_found_and_carried_on(tmp_path):
    """It falls by 0.01 for each doubling: 0.08 at 100,000 images, at 15 million 0.0077."""
    made = build.analyse(grown(tmp_path, lambda size: 0.08 - 0.01 * np.log2(size / 1e5), predictions=True))
    trend = next(trend for trend in trends.trends(made.study, made.repeats) if trend.metric == "nll")
    low, high = trend.slope.interval
    assert low < -0.01 < high and high - low < 0.002
    low, high = trend.line[-1].interval
    assert low < 0.08 - 0.01 * np.log2(150) < high
    assert trend.bend.p > 0.05
    said = next(line for line in made.answer().splitlines() if "**Growth with images seen by a peer**" in line)
    assert "100,000 to 1.6 million: NLL for each doubling" in said
    assert "on: both terms -0.01" in said and ", at the paper's 300 epochs of 50,000 images +0.00" in said
    assert "can be told" not in said


def test_where_seeds_are_added_as_needed_a_line_has_the_level_of_a_look(tmp_path):
    """Four looks are planned, and the second is not over."""
    folder = grown(tmp_path, lambda size: 0.05, looks=[3, 5, 8, 12], level=0.0125, chosen=None)
    made = build.analyse(folder)
    trend = trends.trends(made.study, made.repeats)[0]
    for effect in (*trend.at.values(), *trend.line, trend.slope, trend.bend):
        assert (effect.level, effect.n) == (0.0125, 3)
    assert trend.at[SIZES[0]].interval == made.contrasts["nll"]["both terms, size 0"].interval
    caption = trends.caption(made.study, [trend])
    assert "its 98.75 % interval over seeds and test images, those of the last look." in caption and "95 %" not in caption


def test_what_is_no_line_is_said(tmp_path):
    made = build.analyse(grown(tmp_path, lambda size: 0.01 * np.log2(size / 1e5) ** 2))
    assert " (no straight line), at the paper" in made.answer()


def test_arms_of_other_lengths_are_compared_and_cut_ones_are_not(tmp_path):
    """As many epochs short of their own; here a trial of the shorter arm stopped one epoch before its end."""
    folder = grown(tmp_path, lambda size: 0.1, seeds=3)
    for place in range(6):
        path = folder / "trials" / f"{place // 3:02d}{place % 3:02d}"
        record = study_files.read_trial(path)
        record.config["epochs"] = record.epochs = 6
        study_files.write_trial(path, record)
    made = build.analyse(folder)
    trend = trends.trends(made.study, made.repeats)[0]
    assert trend.slope.n == 3 and len(trend.at) == 4


def test_the_page_draws_them(tmp_path):
    build.build(grown(tmp_path, lambda size: 0.05), formats=("html",))
    page = (tmp_path / "report.html").read_text()
    assert "Effects against size" in page and 'aria-label="both terms: nll against images seen by a peer"' in page
    assert "both terms by images seen by a peer" in page and "for each doubling" in page


def test_a_figure_for_paper_has_one_scale(tmp_path):
    """Room for every line's end and every interval but one that dwarfs all effects; 0 is on it."""
    made = build.analyse(grown(tmp_path, lambda size: 0.05))
    found = trends.trends(made.study, made.repeats)
    assert [path.name for path in trends.draw(found, tmp_path)] == ["trends.png", "trends.pdf"]
    (trend,) = (trend for trend in found if trend.metric == "nll")
    low, high = trends.scale([trend])
    assert low < 0 < 0.05 < high < 0.06
    trend.at[SIZES[0]] = SimpleNamespace(mean=0.05, interval=(-9.0, 9.0))
    assert trends.scale([trend])[1] < 0.06
