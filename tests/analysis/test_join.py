"""Several studies in one table: their own baselines, one family of comparisons, the command line around it."""

import re

import pandas as pd
import pytest
from helpers.synthetic_records import SETTINGS, make

from analysis.build import analyse
from analysis.join import join, label, summary
from analysis.stats.statistics import holm
from mldiv.records.checked_files import RecordError

NLL = {
    "mutual learning": [0.50, 0.60, 0.55, 0.52, 0.58, 0.61, 0.49, 0.57],
    "rbf": [0.45, 0.56, 0.50, 0.5, 0.55, 0.6, 0.48, 0.56],
}
WORSE = {"mutual learning": NLL["mutual learning"], "cosine": [value + 0.1 for value in NLL["mutual learning"]]}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Two study folders, a and b, beside each other; tests only read them."""
    folder = tmp_path_factory.mktemp("studies")
    make(folder / "a", NLL, images=30)
    make(folder / "b", WORSE, images=30, settings=SETTINGS | {"arch": "resnet20", "data": "cifar10"})
    return [folder / "a", folder / "b"]


@pytest.fixture(scope="module")
def joined(studies, tmp_path_factory):
    """Both joined: the folder, and the text for the terminal."""
    out = tmp_path_factory.mktemp("joined")
    return out, join(studies, out)


def test_rows_are_grouped_by_network_and_data(joined):
    out, text = joined
    lines = [line for line in (out / "table.md").read_text().splitlines() if line.startswith("| resnet")]
    assert [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines[:4]] == [
        ("resnet8 x 1, digits", "mutual learning"), ("resnet8 x 1, digits", "rbf"),
        ("resnet20 x 1, cifar10", "mutual learning"), ("resnet20 x 1, cifar10", "cosine"),
    ]  # fmt: skip
    assert "**0.525**" in lines[1]  # the best of each study
    assert "**0.552**" in lines[2]
    frame = pd.read_csv(out / "table.csv")
    assert frame["arch"].tolist() == ["resnet8"] * 2 + ["resnet20"] * 2
    assert frame["data"].nunique() == 2
    assert frame.loc[3, "nll_mean"] == pytest.approx(0.6525)
    assert "report.html" in text
    assert "<table" in (out / "report.html").read_text()
    assert not {"²", "±", "%"} & set((out / "table.tex").read_text().replace(r"\%", "").replace("{!}{%", ""))


def test_a_terminal_is_told_the_answer_and_where_the_tables_are(joined):
    """All tables were printed too, with lines of 900 signs."""
    out, text = joined
    assert text.startswith((out / "answer.md").read_text()) and "table.md" in text.splitlines()[-1]
    assert max(map(len, text.splitlines())) < 300


def test_p_values_are_corrected_over_all_studies(joined):
    answer = (joined[0] / "answer.md").read_text()
    rows = [line for line in answer.splitlines() if line.startswith("- ") and ("-0.0275" in line or "+0.1000" in line)]
    shown = [[re.search(f"{name} (?:= )?(<|[0-9.e-]+)", row)[1] for row in rows] for name in ("p", "Holm-adjusted")]
    shown = [[0.0 if p == "<" else float(p) for p in of_rows] for of_rows in shown]
    assert holm(shown[0]) == pytest.approx(shown[1], rel=0.1) and len(rows) == 2
    assert "resnet8 x 1, digits: rbf less mutual learning: **better**, -0.0275" in rows[0]
    assert ": **better**, " in rows[0]
    assert "+0.1000" in rows[1]
    assert ": **worse**, " in rows[1]


def test_studies_of_one_network_and_data_are_told_apart(tmp_path):
    same = [analyse(make(tmp_path / name, NLL, predictions=False)) for name in ("a", "b")]
    assert list(label(same)) == ["resnet8 x 1, digits, kernel_sweep, a", "resnet8 x 1, digits, kernel_sweep, b"]


def test_trials_that_two_studies_share_count_once(studies):
    """As where a study's trials were copied beside another's; of other data the same settings are other trials."""
    made = label([analyse(folder) for folder in (studies[0], studies[0])])
    repeats = [[item for runs in of.repeats.values() for item in runs.values()] for of in made.values()]
    for of_study in repeats:
        for place, item in enumerate(of_study):
            item.record.id, item.record.data["fingerprint"] = f"{place:016x}", "digits"
    assert summary(made) == ["8 pairs are of the same trials as those of a study above, and count once.", ""]
    for item in repeats[1]:
        item.record.data["fingerprint"] = "other digits"
    (row,) = [line for line in "\n".join(summary(made)).splitlines() if line.startswith("| rbf")]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["2", "16"]


def test_the_command_joins_and_chooses_formats(studies, command):
    beside = studies[0].parent
    done = command(*studies, "--format", "csv,md")
    assert done.returncode == 0, done.stderr
    assert "# Several studies" in done.stdout
    assert {path.name for path in (beside / "joined").iterdir()} == {"table.md", "table.csv", "answer.md"}


def test_the_command_writes_one_study_where_it_is_told(studies, command, tmp_path):
    done = command(studies[0], "--format", "tex", "--out", tmp_path / "done")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "done").iterdir()} == {"table.tex", "answer.md"}
    assert not (studies[0] / "answer.md").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a", "--format", "docx"], "--format 'docx' is unknown; known: md, csv, tex, html, png"),
        (["a", "nowhere"], "study.json: no such file"),
        (["a", "a"], "the same folder is named twice"),
        (["a", "--out", "a/study.json"], "--out a/study.json: a/study.json is a file, where a folder is expected"),
        (["a", "--compact", "a/study.json/x"], "--compact a/study.json/x: "),
    ],
)
def test_bad_input_is_one_line(studies, command, monkeypatch, argv, message):
    monkeypatch.chdir(studies[0].parent)
    done = command(*argv)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_the_same_folder_under_two_names_is_refused(studies, tmp_path):
    (tmp_path / "link").symlink_to(studies[0])
    with pytest.raises(RecordError, match="named twice"):
        join([studies[0], tmp_path / "link"])
