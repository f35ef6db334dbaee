"""Words in tables: whatever a name holds, it stays a name in Markdown, CSV and LaTeX; what differs between trials is said."""

import csv
import io
import json

import pytest
from helpers.synthetic_records import SETTINGS, make

from analysis import build, tables
from analysis.join import join
from analysis.stats.statistics import Summary, digits_of, fixed
from mldiv.records import checked_files, study_files

EVIL = "=1+1|\\input{x}^~{a}\x1b[31m"
NLL = {"mutual learning": [0.5, 0.6], EVIL: [0.4, 0.45]}


def made(tmp_path):
    return build.analyse(make(tmp_path, NLL))


def test_a_name_is_no_formula_in_a_spreadsheet(tmp_path):
    study = made(tmp_path)
    text = tables.frame(study.study, study.table).to_csv(index=False)
    (_, _, row) = csv.reader(io.StringIO(text))
    assert row[0] == "'=1+1|\\input{x}^~{a}\\x1b[31m"


def test_a_name_is_no_command_in_latex(tmp_path):
    study = made(tmp_path)
    text = tables.latex("arm", study.table, [EVIL])
    assert r"=1+1|\textbackslash{}input\{x\}\textasciicircum{}\textasciitilde{}\{a\}" in text
    assert r"\input" not in text and "\x1b" not in text
    assert r"\textbf{" in text and r"$\pm$" in text


def test_a_name_is_one_cell_in_markdown(tmp_path):
    """In every table of a study, of its answer and of several joined."""
    chosen = {"mutual learning": {}, EVIL: {"kernel": EVIL}}
    folders = [make(tmp_path / name, NLL, chosen=chosen, settings=SETTINGS | {"data": name}) for name in ("one", "two")]
    build.build(folders[0], formats=["md"])
    text = (folders[0] / "table.md").read_text() + (folders[0] / "answer.md").read_text()
    text += join(folders, tmp_path) + (tmp_path / "table.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|") and "=1+1" in line]
    assert {len(row.split(r"=1+1\|")) for row in rows} == {2, 3} and "=1+1|" not in "".join(rows)
    assert "\x1b" not in "".join(rows)


def test_no_file_of_words_holds_a_code_that_a_terminal_or_page_obeys(tmp_path):
    """Nor a mark that turns the direction of writing: in captions, tables, what was left out and what a search chose."""
    evil = EVIL + "\u202e"
    folder = make(tmp_path, NLL | {evil: [0.4, 0.5]}, chosen={evil: {"kernel": evil}}, question=evil)
    (folder / "trials" / "0000" / "metrics.jsonl").unlink()
    build.build(folder, formats=["md", "csv", "tex", "html"])
    files = ["table.md", "table.csv", "table.tex", "answer.md", "report.html"]
    for name in files:
        text = (folder / name).read_text()
        assert "\\x1b" in text or "x1b" in text, name
        assert "\x1b" not in text and "\u202e" not in text, name


def test_trials_of_different_code_are_named(tmp_path):
    folder = make(tmp_path, NLL)
    assert not any("different states" in line for line in tables.caption(build.analyse(folder).study))
    for number, path in enumerate(sorted(folder.glob("trials/*"))):
        record = study_files.read_trial(path)
        record.environment["code"] = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")[number % 2]
        study_files.write_trial(path, record)
    (line,) = [line for line in tables.caption(build.analyse(folder).study) if "different states" in line]
    assert "2 different states of mldiv's code (aaaaaaaaaaaa, bbbbbbbbbbbb)" in line


def test_the_answer_says_what_its_numbers_are_corrected_for(tmp_path):
    """A contrast that Holm's correction takes, growth after a report, arms of other numbers of networks."""
    draws, weights = [0.5, 0.53, 0.47, 0.52], {"a": 1.0, "b": -1.0}
    nll = {"a": draws, "b": [value + 0.02 + 0.004 * place for place, value in enumerate(draws)], "c": draws[::-1]}
    contrasts = {"a less b": weights} | {f"none {number}": {"a": 1.0, "c": -1.0} for number in range(40)}
    changed = {"contrasts": contrasts, "grown": [[3, 2]], "changes": {"a": {}, "b": {}, "c": {"peers": 3}}}
    said = build.analyse(make(tmp_path, nll, predictions=False, **changed)).answer()
    assert "After Holm's correction over 41 comparisons none of it stays (a less b: p" in said
    assert "**The study grew after a report**: of 3 seeds of 2 arms." in said
    assert "Arms have 2 and 3 networks" in said
    assert "grew after" not in build.analyse(make(tmp_path / "whole", nll, predictions=False)).answer()


def test_where_w2_lies(tmp_path):
    """Beside W2², after the last of twelve epochs: 0.75 + 0.02 x 11; records from before that was noted have no such column."""
    found = build.analyse(make(tmp_path / "new", {"plain": [0.5], "with a": [0.5]}))
    assert found.table["plain"]["w2_share_means"].mean == pytest.approx(97.0)
    assert "| W2² per weight   | W2² in means %   |" in tables.markdown(found.study, found.table)
    old = make(tmp_path / "old", {"plain": [0.5]})
    for path in old.glob("trials/*/metrics.jsonl"):
        lines = list(checked_files.read_lines(path))
        for line in lines:
            del line["diversity"]["w2_share_means"]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = build.analyse(old)
    assert found.table["plain"]["w2_share_means"] is None and "in means" not in tables.markdown(found.study, found.table)


def test_how_bayesian_the_networks_are(tmp_path):
    """From the records by hand: sigma over mean 0.05 and 0.1; 0.01 of 0.05 lies within the peers; 50 % falls to 42 %."""
    found = build.analyse(make(tmp_path, {"plain": [0.5], "single": [0.6]}, members={"single": "peers"}))
    for arm, nll in (("plain", 0.5), ("single", 0.6)):
        row = {name: found.table[arm][name].mean for name in tables.filled(found.table, "posterior")}
        expected = {"sigma_over_mean": 7.5, "samples_nll": nll, "means_nll": nll + 0.01, "mi_within": 20.0, "survived": -8.0}
        assert row == pytest.approx(expected)


def summary(mean, error=None, n=3):
    return Summary(mean, error, n)


@pytest.mark.parametrize(("errors", "most", "digits"), [
    ([0.0106], 4, 3), ([0.031], 4, 3), ([0.036], 4, 2), ([0.42], 2, 1), ([0.22], 2, 2), ([1.9], 2, 1), ([4.0], 2, 0),
    ([120.0], 2, 0), ([0.00002], 4, 4), ([0.01, 0.5, 0.02], 4, 3), ([], 4, 4),
])  # fmt: skip
def test_digits_by_the_particle_data_groups_rule(errors, most, digits):
    """Two significant digits of the median error up to 35, one from 36 on, by hand."""
    assert digits_of(errors, most) == digits


def test_a_column_has_the_digits_of_its_errors_and_ties_are_bold_together():
    arms = {"a": (0.1004, 0.02), "b": (0.0996, 0.04), "c": (0.2, 0.06), "d": (-0.00001, 0.05)}
    table = {arm: {"nll": summary(*values), "accuracy": None} for arm, values in arms.items()}
    assert tables.cells(table, ["nll", "accuracy"], "**{}**") == [
        ["a", "0.10 ± 0.02", "-"], ["b", "0.10 ± 0.04", "-"], ["c", "0.20 ± 0.06", "-"], ["d", "**0.00** ± 0.05", "-"]
    ]  # fmt: skip
    del table["d"]
    assert [row[1] for row in tables.cells(table, ["nll"], "**{}**")] == ["**0.10** ± 0.02", "**0.10** ± 0.04", "0.20 ± 0.06"]
    same = {arm: {"nll": summary(0.5, 0.1)} for arm in "ab"}
    assert [row[1] for row in tables.cells(same, ["nll"], "**{}**")] == ["0.50 ± 0.10"] * 2


def test_the_number_of_seeds_is_said_once():
    table = {"a": {"nll": summary(0.5, 0.1)}, "b": {"nll": summary(0.4, 0.1)}, "c": {"nll": summary(0.3, None, 1)}}
    assert [row[1] for row in tables.cells(table, ["nll"], "{}")] == ["0.50 ± 0.10", "0.40 ± 0.10", "0.30 (1)"]
    assert tables.counted(table, ["nll"]) == "n = 3 where no other number stands in brackets."
    del table["c"]
    assert tables.counted(table, ["nll"]) == "n = 3."


@pytest.mark.parametrize(("value", "said"), [(-0.00001, "0.000"), (0.0, "0.000"), (-0.0006, "-0.001"), (0.25, "0.250")])
def test_zero_is_never_negative(value, said):
    assert fixed(value, 3) == said and fixed(value, 3, "+") == (said if said[0] == "-" else f"+{said}")
