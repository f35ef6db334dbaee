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
    assert (low, high) == forest.limits(list(effects["accuracy"].values()), MARGINS["accuracy"]) and low < 0 < high


@pytest.mark.parametrize(
    ("rows", "margin", "beyond"),
    [
        ([[0.01, 0.02, 0.03], [-0.5, -0.51, -0.52]], 0.0, {1}),
        ([[0.01, 0.02, 0.03], [0.5, 0.51, 0.52]], 0.2, set()),  # beside the margin's band it is not far
        ([[0.01, 0.02, 0.03], [0.5, 0.51, 0.52], [0.6, 0.61, 0.62]], 0.0, set()),  # most are there
        ([[0.01, 0.02, 0.03], [0.0, 0.01, 0.01], [0.6, 0.61, 0.62], [-0.6, -0.61, -0.62]], 0.0, {2, 3}),
        ([[0.01, 0.02, 0.03], [-5.0, 0.0, 5.0]], 0.0, set()),  # it is wide and holds zero
        ([[0.01, 0.02, 0.03], [0.05, 0.08, 0.06]], 0.0, set()),
        ([[0.5, 0.51, 0.52]], 0.0, set()),
    ],
)
def test_what_is_far_from_all_others_lies_beyond_the_axis(rows, margin, beyond):
    differences = [difference(row) for row in rows]
    axis = forest.limits(differences, margin)
    assert {place for place, effect in enumerate(differences) if forest.beyond(effect, axis)} == beyond
    for place, effect in enumerate(differences):
        inside = [axis[0] < end < axis[1] for end in effect.interval]
        assert inside == [place not in beyond] * 2


def test_an_arrow_with_its_mean_stands_for_what_lies_beyond(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(svg, "files", lambda figure, out, name: kept.append(figure) or [])
    effects = {"nll": {"a $x_1$": difference([0.01, 0.02, 0.03]), "b": difference([-0.5, -0.51, -0.52])}}
    intervals.draw(effects, {}, STYLES, MARGINS, "base", tmp_path)
    (axes,) = kept[0].axes
    (text,) = axes.texts
    assert (text.get_text(), text.xy, text.get_ha()) == ("-0.5100", (0.0, 1), "left")
    assert len(drawn(axes)) == 1 and "arrow: beyond the axis" in kept[0].get_supxlabel()
    (table,) = forest.panels(effects, {}, STYLES, MARGINS).values()
    assert table.count('class="bar"') == 1 and "beyond the axis" in table and "left:0.00%" in table
    assert "beyond the axis" not in forest.panels({"nll": {"b": effects["nll"]["b"]}}, {}, STYLES, MARGINS)["nll"]


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
