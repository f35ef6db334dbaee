"""The figure of differences for a paper: what is drawn where, read from its lines."""

import pytest

from analysis.figures import forest, intervals, palette, svg
from analysis.stats.statistics import difference

STYLES = {"base": palette.style(0), "a $x_1$": palette.style(1), "b": palette.style(2)}
MARGINS = {"nll": 0.005, "accuracy": 0.3}


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """Draws effects of two arms and a contrast, and returns the figure; arm b and the contrast are decided by NLL."""
    kept = []
    monkeypatch.setattr(svg, "files", lambda figure, out, name: kept.append(figure) or [])
    effects = {
        "nll": {"a $x_1$": difference([0.1, -0.2, 0.05]), "b": difference([0.2, 0.21, 0.22])},
        "accuracy": {"a $x_1$": difference([1.0, -2.0, 3.0]), "b": difference([-5.0, -5.1, -5.2])},
    }
    contrasts = {"nll": {"both": difference([-0.3, -0.31, -0.32])}}
    assert intervals.draw(effects, contrasts, STYLES, MARGINS, "base", tmp_path) == []
    return kept[0], effects, contrasts


def drawn(axes):
    """By row, the ends of its interval, its mean, and whether its mark is hollow."""
    _, *lines = axes.lines  # the first is zero
    bars, marks = lines[::2], lines[1::2]
    return [
        (*bar.get_xdata(), *mark.get_xdata(), mark.get_markerfacecolor() == "white")
        for bar, mark in zip(bars, marks, strict=True)
    ]


def test_rows_are_the_effects_and_below_them_the_contrasts(figure):
    drawing, effects, contrasts = figure
    nll, accuracy = drawing.axes
    expected = [*effects["nll"].values(), contrasts["nll"]["both"]]
    assert [row[:3] for row in drawn(nll)] == [pytest.approx((*effect.interval, effect.mean)) for effect in expected]
    assert [row[3] for row in drawn(nll)] == [True, False, False]
    assert len(drawn(accuracy)) == 2


def test_names_are_written_as_they_are(figure):
    labels = figure[0].axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["a $x_1$", "b", "both"]
    assert not any(label.get_parse_math() for label in labels)


def test_the_axis_holds_every_interval_and_zero(figure):
    drawing, effects, _ = figure
    low, high = drawing.axes[1].get_xlim()
    assert (low, high) == forest.limits(list(effects["accuracy"].values())) and low < 0 < high


def test_nothing_compared_draws_nothing(tmp_path):
    assert intervals.draw({}, {}, STYLES, MARGINS, "base", tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_titles_end_within_the_figure_beside_long_names(monkeypatch, tmp_path):
    """As `effect of diversity, both pretrained, two seeds` in the study of the initialisation."""
    kept = []
    monkeypatch.setattr(svg, "files", lambda figure, out, name: kept.append(figure) or [])
    name = "effect of diversity, both pretrained, two seeds"
    contrasts = {metric: {name: difference([0.1, 0.2, 0.15])} for metric in MARGINS}
    intervals.draw({}, contrasts, STYLES, MARGINS, "base", tmp_path)
    (drawing,) = kept
    drawing.draw_without_rendering()
    whole, page = drawing.get_tightbbox(), drawing.bbox_inches
    assert page.x0 <= whole.x0 and whole.x1 <= page.x1 and whole.y1 <= page.y1
