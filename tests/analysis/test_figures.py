"""What the report's figures are drawn from, and the SVG they become."""

import dataclasses
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.synthetic_records import make, predicted, write
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from scipy import stats

from analysis.figures import curves, detection, forest, html, palette, svg
from analysis.records import load
from analysis.records.load import Curve
from analysis.report import account, provenance
from analysis.stats.statistics import Difference, difference
from mldiv.evaluation import detection as scores
from mldiv.records import study_files
from mldiv.records.contents import Assignment

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40)


def slow_risk(uncertainty, correct):
    """Each k: errors of the images below the k-th uncertainty, and the tied ones' errors by the share that is taken."""
    found = []
    for k in range(1, len(uncertainty) + 1):
        level = sorted(uncertainty)[k - 1]
        below = [not right for value, right in zip(uncertainty, correct, strict=True) if value < level]
        tied = [not right for value, right in zip(uncertainty, correct, strict=True) if value == level]
        found.append((sum(below) + (k - len(below)) * sum(tied) / len(tied)) / k)
    return found


@given(PAIRS)
def test_risk_against_a_loop_with_ties(pairs):
    uncertainty, correct = (np.array(column) for column in zip(*pairs, strict=True))
    assert detection.risk(uncertainty, correct) == pytest.approx(slow_risk(uncertainty, correct))


@given(PAIRS)
def test_mean_risk_is_the_recorded_area(pairs):
    uncertainty, correct = (np.array(column) for column in zip(*pairs, strict=True))
    area = scores.aurc(torch.tensor(uncertainty, dtype=torch.double), ~torch.tensor(correct))
    assert detection.risk(uncertainty, correct).mean() == pytest.approx(area)


@pytest.mark.parametrize("images", [1, 3, 7, 100, 250])
def test_coverage_keeps_whole_images_rounded_up(images):
    risks = np.arange(images, dtype=float)
    kept = detection.at_coverage(risks) + 1
    assert kept.tolist() == [math.ceil(round(100 * share) * images / 100) for share in detection.COVERAGE]
    assert kept[-1] == images


def test_risk_coverage_is_the_mean_over_members_then_seeds():
    first, second = predicted([1, 1, 0, 0], [0, 1, 2, 3]), predicted([0, 1, 1, 1], [0, 1, 2, 3])
    third = predicted([1, 1, 1, 0], [0, 1, 2, 3])
    found = detection.risk_coverage({1: [first, second], 2: [third, third]}, "entropy")
    half = [100 * (0 + 0.5) / 2, 0.0]  # of the two surest images: no error and one; none
    assert found.mean[49] == pytest.approx(np.mean(half)) and found.epoch[49] == pytest.approx(50)
    assert found.error[49] == pytest.approx(np.std(half, ddof=1) / 2**0.5)
    assert found.mean[-1] == pytest.approx(100 * ((0.5 + 0.25) / 2 + 0.25) / 2)
    other = detection.risk_coverage({1: [first]}, "mutual_information")
    assert other.mean[49] == pytest.approx(100) and np.isnan(other.error).all()


def slow_aggregate(epochs, values):
    found = {}
    for epoch in range(max(map(max, epochs)) + 1):
        here = [value[list(own).index(epoch)] for own, value in zip(epochs, values, strict=True) if epoch in own]
        here = [value for value in here if np.isfinite(value)]
        if here:
            error = np.std(here, ddof=1) / len(here) ** 0.5 if len(here) > 1 else None
            found[epoch + 1] = (np.mean(here), error)
    return found


@given(st.lists(st.lists(st.one_of(st.just(np.nan), st.just(np.inf), st.floats(-9, 9)), min_size=1, max_size=8), min_size=1,
                max_size=5), st.integers(0, 2))  # fmt: skip
def test_aggregation_of_different_lengths_against_a_loop(values, start):
    values = [np.array(row) for row in values]
    epochs = [np.arange(start * (place % 2), start * (place % 2) + len(row)) for place, row in enumerate(values)]
    expected, found = slow_aggregate(epochs, values), curves.aggregate(epochs, values)
    if found is None:
        assert not expected
        return
    assert found.epoch.tolist() == list(expected)
    for place, (mean, error) in enumerate(expected.values()):
        assert found.mean[place] == pytest.approx(mean)
        assert np.isnan(found.error[place]) if error is None else found.error[place] == pytest.approx(error, abs=1e-9)


def curve(switch, epochs=10, **values):
    stage = np.where(np.arange(epochs) < switch, 1, 2)
    names = dict.fromkeys(load.CURVES, np.arange(epochs, dtype=float))
    return Curve(np.arange(epochs), stage, names | {name: np.array(row) for name, row in values.items()})


def test_switches_and_where_the_enlarged_part_begins():
    assert curves.switches([curve(6), curve(8), curve(6), curve(10)]) == [6, 8]
    assert curves.switches([curve(10)]) == []
    assert curves.zoom({"a": [curve(10)], "b": [curve(4), curve(8)]}) == 4
    assert curves.zoom({"a": [curve(10, 12)], "b": [curve(9)]}) == 8
    assert curves.zoom({"a": [curve(0, 1)]}) == 1


def test_a_curve_of_one_point_is_seen():
    """Gradients of a short stage two are measured once: a line of one point draws nothing."""
    with svg.style():
        axes = svg.canvas(100).add_subplot()
        curves.line(axes, np.array([4]), np.array([0.2]), np.array([np.nan]), palette.style(0), 1)
        curves.line(axes, np.array([3, 4]), np.array([0.2, 0.3]), np.full(2, np.nan), palette.style(1), 1)
    assert [drawn.get_marker() for drawn in axes.lines] == [".", "None"]


def test_a_switch_is_marked_on_its_own_arms_curve():
    """Epoch 6 is the first of stage two, so six epochs were trained before: the marker sits there, at that epoch's height."""
    axes = svg.canvas(200).add_subplot()
    x = np.arange(1, 11)
    curves._mark(axes, x, x**2.0, 6, palette.style(1))
    curves._mark(axes, x[7:], x[7:] ** 2.0, 6, palette.style(1))  # before the part that is shown
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines] == [(6, 36)]


def test_an_arm_of_single_networks_is_scored_by_both():
    trial = curve(5, 2, peer_1_accuracy=[0.2, 0.4], peer_2_accuracy=[0.4, 0.8], accuracy=[9.0, 9.0])
    assert curves.of_member(trial, "accuracy", "peers") == pytest.approx([0.3, 0.6])
    assert curves.of_member(trial, "accuracy", "pair") == pytest.approx([9, 9])
    assert curves.of_member(trial, "feature_kl", "peers") == pytest.approx([0, 1])


def test_forest_axis_holds_every_interval_and_zero():
    several = [difference([0.30, 0.31, 0.32]), difference([0.4]), difference([-0.2, 0.7])]
    low, high = forest.limits(several[:2])
    assert low < 0 and high > 0.4
    low, high = forest.limits(several)
    assert low < several[2].interval[0] and several[2].interval[1] < high
    assert forest.limits([difference([0.0])]) == (-1, 1)


def test_a_forests_row_has_name_verdict_and_numbers_and_lies_on_one_axis():
    """The axis goes from -0.04 less 6 % of 0.14 to 0.1 and 6 %: places by hand, in percent."""
    wide, narrow, nothing = (
        Difference(mean, 5, half / stats.t.ppf(0.975, 4), 4.0) for mean, half in ((0.06, 0.04), (-0.03, 0.01), (0.0, 0.0005))
    )
    arms = {"wide": wide, "a name, however long " * 5: narrow, "nothing": nothing}
    styles = {name: palette.style(place) for place, name in enumerate(arms, 1)}
    text = str(forest.panels({"nll": arms}, {"nll": {"an effect": nothing}}, styles, {"nll": 0.005})["nll"])
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>.*?</tr>", text)
    assert rows == ["wide", "a name, however long " * 5, "nothing", "an effect"]
    assert re.findall(r'class="verdict \w+">(\w+)<', text) == ["worse", "better", "equivalent", "equivalent"]
    assert ">above 0<" in str(forest.panels({}, {"nll": {"an effect": wide}}, styles, {"nll": 0.005})["nll"])
    assert ">+0.0600 [+0.0200,\u00a0+0.1000]<" in text and "n = " not in text
    low, length = -0.04 - 0.06 * 0.14, 0.14 * 1.12
    places = [f"{100 * (end - low) / length:.2f}" for end in (0.02, -0.04)]
    assert [f'class="bar" style="left:{place}%;width:{width}%' in text for place, width in zip(
        places, (f"{100 * 0.08 / length:.2f}", f"{100 * 0.02 / length:.2f}"), strict=True)] == [True, True]  # fmt: skip
    assert f'class="band" style="left:{100 * (-0.005 - low) / length:.2f}%;width:{100 * 0.01 / length:.2f}%' in text
    assert f'class="mark" style="left:{100 * (0.06 - low) / length:.2f}%' in text and "-0.0000" not in text


def test_what_a_forests_row_has_of_its_own_is_said():
    arms = {"a": difference([0.1, 0.2, 0.3]), "b": difference([0.1]), "c": difference([-0.1, 0.1, 0.00001])}
    styles = {name: palette.style(place) for place, name in enumerate(arms, 1)}
    text = str(forest.panels({"nll": arms}, {}, styles, {"nll": 0.005})["nll"])
    assert "(one seed, no interval), n = 1<" in text and text.count("n = ") == 1 and "Contrasts" not in text
    assert text.count("hollow") == 3 and text.count('class="bar"') == 2 and ">+0.0000 [" in text


def test_the_baseline_is_grey_and_every_arm_itself(tmp_path):
    study = load.load(make(tmp_path, {name: [0.5] for name in "abcd"}, baseline="c"))
    styles = svg.arm_styles(study)
    assert list(styles) == list("abcd") and styles["c"] == palette.style(0)
    assert [styles[arm] for arm in "abd"] == [palette.style(place) for place in (1, 2, 3)]
    study.header = dataclasses.replace(study.header, baseline=None)
    assert [style for style in svg.arm_styles(study).values()] == [palette.style(place) for place in (1, 2, 3, 4)]


@pytest.mark.parametrize(("share", "width"), [(0.25, "25.0"), (1.25, "100.0"), (-0.1, "0.0")])
def test_bars_of_importance_stay_in_their_cell(share, width):
    assert f"--share:{width}%" in str(account._bar(share)) and account._bar(None) is None


def drawn(name):
    with svg.style():
        figure = svg.canvas(150)
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 2], marker="o", color="#0072B2")
        axes.fill_between([0, 1], [0, 1], [1, 2], alpha=0.2)
        axes.imshow(np.eye(3), extent=(0, 1, 0, 1))
        axes.set_title("a < b & c")
        return str(svg.svg(figure, name, 'says "a" < b'))


def test_svg_takes_the_pages_font_and_colours_and_is_the_same_every_time():
    text = drawn("one")
    assert text == drawn("one") != drawn("two")
    assert text.startswith('<svg class="plot" role="img" aria-label="says &quot;a&quot; &lt; b" viewBox="0 0 290 150"')
    assert "font-family" not in text and ">a &lt; b &amp; c</text>" in text
    assert "currentColor" in text and "var(--line)" in text and "#000000" not in text and "#0072b2" in text
    assert "<metadata" not in text and "<style" not in text and "http" not in text and "xmlns" not in text
    assert 'href="data:image/png;base64,' in text


def test_ids_of_figures_never_meet():
    text = drawn("one") + drawn("two")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert ids and max(Counter(ids).values()) == 1
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    assert used == set(ids)


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.023), (1e-3, 0.5), (1e-9, 1.0)])
def test_log_axes_have_plain_labels(low, high):
    with svg.style():
        figure = svg.canvas(200)
        axes = figure.add_subplot()
        axes.plot([0, 1], [low, high])
        svg.logarithmic(axes, low, high)
        text = str(svg.svg(figure, "log", "log"))
    labels = re.findall(r"text-anchor: end[^>]*>([^<]+)<", text)
    assert 2 <= len(labels) <= 12 and all(low / 1.4 <= float(label) <= high * 1.4 for label in labels)


def test_markdown_from_records_stays_text():
    text = str(
        html.markdown("# x\n\n<b>a</b> ![i](http://e/i.png) [l](http://e) <http://e>\n\n| a | b |\n|--|--|\n| **1** | 2 |\n")
    )
    assert "<img" not in text and "<a" not in text and "<b>" not in text and "&lt;b&gt;" in text
    assert "<h3>x</h3>" in text and "<strong>1</strong>" in text and text.count('class="box"') == 1


def test_tables_escape_their_cells():
    head = ["<i>", "a", "b", "c", "d", "e", "f"]
    row = ["<b>", 1, None, "a & b", Markup("<u>kept</u>"), "0.12 ± 0.03 (3)", "4e385ed dirty"]
    text = str(html.table(head, [row]))
    assert "&lt;i&gt;" in text and "&lt;b&gt;" in text and "a &amp; b" in text and "<u>kept</u>" in text
    assert '<td data-label="a" class="number">1</td><td data-label="b" class="number">-</td>' in text
    assert 'class="number">0.12 ±\u00a00.03 (3)</td><td data-label="f" class="words">4e385ed dirty</td>' in text


def test_tables_of_markdown_are_as_those_of_html():
    text = str(html.markdown("| kernel | NLL | [95 %] |\n|:--|:--|:--|\n| rbf | **0.5** ± 0.1 | -0.1 [-0.2, +0.1] |\n"))
    assert '<th scope="row">rbf</th>' in text and '<th scope="col">NLL</th>' in text and 'class="narrow"' in text
    assert '<td data-label="NLL" class="number"><strong>0.5</strong> ±\u00a00.1</td>' in text
    assert '<td data-label="[95 %]" class="number">-0.1 [-0.2,\u00a0+0.1]</td>' in text
    for n, kind in ((5, "narrow"), (6, "wide"), (10, "wide"), (11, "wider")):  # of six letters and two between columns
        assert f'class="{kind}"' in str(html.table(["x"] * n, [["a [4, 6]"] * n]))


def test_every_style_has_a_swatch():
    text = str(html.legend({f"a{place}": palette.style(place) for place in range(40)}))
    assert text.count("<line") == 40 and text.count("<polygon") >= 40 and "nan" not in text


def study_with_searches(folder):
    changes = {"a": {"alpha": 0.0}, "b": {"kernel": "rbf", "alpha": 9.0}, "c": {}}
    make(folder, {"a": [0.5, 0.6], "b": [0.4, 0.5], "c": [0.4, 0.5]}, changes=changes,
         searched={"a": ["lr"], "b": ["lr", "alpha"], "c": ["lr", "alpha"]},
         chosen={"b": {"lr": 0.2, "alpha": 3.0}}, world_size=2)  # fmt: skip
    write(folder, "s1", 0.3, 0.9, 0, 0)
    write(folder, "s2", 0.3, 0.9, 0, 0, status="stopped")
    items = [
        *study_files.read_assignments(folder),
        *(Assignment("b", "search", 0, trial) for trial in ("s1", "s2", "0100", "x")),
    ]
    study_files.write_assignments(folder, items)
    return load.load(folder)


def test_roles_and_values_of_settings(tmp_path):
    study = study_with_searches(tmp_path)
    roles = provenance.roles(study)
    assert (roles["kernel"], roles["lr"], roles["epochs"]) == ("scientific", "tuned", "fixed")
    assert roles["alpha"] == "scientific, tuned in some arms"
    assert [provenance.value_of(study, arm, "alpha") for arm in "abc"] == [0.0, 3.0, 1.0]
    rows = {row[0]: row[1:] for row in provenance.settings(study)}
    assert rows["epochs"] == ["12", "fixed"] and rows["kernel"] == ["differs by arm", "scientific"]
    assert dict(provenance.design(study))["search"] == "2 settings per arm, each with 1 seed"
    names, arms = provenance.by_arm(study)
    assert dict(zip(["arm", *names], arms[1], strict=True)) == {"arm": "b", "alpha": "3*", "kernel": "rbf", "lr": "0.2*"}


def test_without_a_search_nothing_is_tuned(tmp_path):
    study = study_with_searches(tmp_path)
    study.header = dataclasses.replace(study.header, early_stopping="ASHA")
    assert dict(provenance.design(study))["early stopping of searched trials"] == "ASHA"
    study.header = dataclasses.replace(study.header, samples=0)
    assert dict(provenance.design(study))["early stopping of searched trials"] == "none"
    assert provenance.roles(study)["lr"] == "fixed" and provenance.roles(study)["alpha"] == "scientific"
    names, arms = provenance.by_arm(study)
    assert dict(zip(["arm", *names], arms[1], strict=True)) == {"arm": "b", "alpha": "3", "kernel": "rbf"}


def test_cost_counts_a_shared_trial_once(tmp_path):
    study = study_with_searches(tmp_path)
    rows = {row[0]: row[1:] for row in provenance.cost(study)}
    # 3 seconds, 8 epochs trained and 4 shared per trial; s1, s2 and 0100 searched; 6 repeats, one of them 0100
    assert rows["searches"] == ["3", "24", "12", "0", f"{2 * 9 / 3600:.2g}"]
    assert rows["repeats"][:3] == ["6", "48", "24"] and rows["together"][:3] == ["8", "64", "32"]
    assert rows["together"][4] == f"{2 * 24 / 3600:.2g}"


def test_ends_of_trials_are_counted(tmp_path):
    study = study_with_searches(tmp_path)
    record = study.records["c", 2]
    record.status, record.reason = "diverged", "loss is nan"
    record.notes = ["slow", "slow"]
    titles, rows = provenance.counts(study)
    assert titles == ["finished", "stopped", "diverged", "without a record"]
    assert rows[2] == ["c", 1, 0, 1, 0] and rows[3] == ["all searches", 2, 1, 0, 1]
    study.header = dataclasses.replace(study.header, samples=0)
    assert dict(provenance.design(study))["search"] == dict(provenance.design(study))["selection"] == "none"
    assert ["diverged", "loss is nan", 1, f"c, seed 2 ({record.id})"] in provenance.reasons(study)
    assert provenance.notes(study) == [["slow", 1, f"c, seed 2 ({record.id})"]]


def test_the_file_of_learning_curves_shows_means_over_seeds_under_any_name(tmp_path):
    study = load.load(make(tmp_path, {name: [0.5, 0.6] for name in ("a $x_1$", r"$\nothing{", "_hidden")}, images=60))
    found, styles = curves.read(study), svg.arm_styles(study)
    figure = curves._file(study, found, styles)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(study.arms)
    lines = {line.get_color(): line for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 1}
    for arm, style in styles.items():
        by_hand = np.mean([curve.values["nll"] for curve in found[arm]], axis=0)
        np.testing.assert_allclose(lines[style.color].get_ydata(), by_hand)
    assert [path.name for path in curves.draw(study, found, styles, tmp_path)] == ["learning.png", "learning.pdf"]
    assert curves.draw(study, {}, styles, tmp_path) == []
