"""A study's folder with damaged, exchanged or edited records: the trial is left out by name, everything else goes on."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from helpers import damages
from helpers.small_study import run, trial

from analysis import build, tables
from analysis.records import load
from analysis.records.repeats import gather
from mldiv.records.checked_files import RecordError


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a study of two arms and two seeds, one arm searched."""
    folder = tmp_path_factory.mktemp("trained") / "study"
    assert run(folder, report=build.build)[0] == 0
    return folder


@pytest.fixture
def study(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "study")


def left(folder):
    """Repeats that enter the tables, and what is said of the others."""
    found = load.load(folder)
    return sorted((arm, seed) for arm in found.arms for seed in found.finished(arm)), found.problems


ALL = [("both", 1), ("both", 2), ("plain", 1), ("plain", 2)]


def test_of_an_undamaged_study_nothing_is_left_out(study):
    assert left(study) == (ALL, [])
    for path in study.glob("trials/*/trial.json"):
        assert "checksum" in json.loads(path.read_text())
        owner = json.loads(pyarrow.parquet.read_schema(path.with_name("predictions.parquet")).metadata[b"PANDAS_ATTRS"])
        assert owner == {"trial": path.parent.name}


def unmarked(folder):
    """As mldiv 0.5.0 left it."""
    for path in folder.glob("trials/*/trial.json"):
        damages.rewrite(
            path, lambda value: {name: item for name, item in value.items() if name not in ("checksum", "left_out")}
        )
        frame = pd.read_parquet(path.with_name("predictions.parquet"))
        frame.attrs.clear()
        frame.to_parquet(path.with_name("predictions.parquet"), index=False)


def test_files_without_marks_are_read_as_they_were(study):
    before = build.build(study, formats=("md",))
    unmarked(study)
    assert left(study) == (ALL, [])
    assert build.build(study, formats=("md",)) == before


def edit(*keys, to):
    def change(folder):
        def edited(value):
            place = value
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = to(place[keys[-1]]) if callable(to) else to
            return value

        damages.rewrite(trial(folder) / "trial.json", edited)

    return change


def copy(name, seed=2, arm="both"):
    return lambda folder: shutil.copyfile(trial(folder, arm, seed) / name, trial(folder) / name)


def copy_all(folder):
    shutil.rmtree(trial(folder))
    shutil.copytree(trial(folder, seed=2), trial(folder))


def exchange_assignments(folder):
    path = folder / "assignments.jsonl"
    names = [trial(folder).name, trial(folder, "plain").name]
    path.write_text(path.read_text().replace(names[0], "x").replace(names[1], names[0]).replace("x", names[1]))


def predictions(change):
    def changed(folder):
        path = trial(folder) / "predictions.parquet"
        frame = change(pd.read_parquet(path))
        frame.to_parquet(path, index=False)

    return changed


#: What is done to the repeat of "both" with seed 1, whether marks tell of it alone, and what is said of it.
OWNERS = {
    "a folder copied over another": (copy_all, "the record of another trial"),
    "a record copied over another": (copy("trial.json"), "the record of another trial"),
    "its id changed too": (edit("id", to="0123456789abcdef"), "the record of another trial|its checksum does not fit"),
    "its configuration lost": (edit("config", to={}), "config: fields .* are missing|its checksum"),
    "its alpha a word": (edit("config", "alpha", to="x"), "alpha = 'x'|its checksum"),
    "its configuration edited": (edit("config", "lr", to=0.5), "not the trial of both, repeat, seed 1: lr|its checksum"),
    "its accuracy edited": (edit("test", "pair", "accuracy", to=lambda was: was + 1 / 24), "gives accuracy|its checksum"),
    "its NLL edited": (edit("test", "pair", "nll", to=lambda was: was - 0.001), "gives nll .* of pair, where|its checksum"),
    "a peer's NLL edited": (edit("test", "peer_2", "nll", to=lambda was: was - 0.001), "gives nll .* of peer_2|its checksum"),
    "its ECE edited": (edit("test", "pair", "ece", to=0.99), "gives ece|its checksum"),
    "its entropy edited": (edit("test", "pair", "entropy", to=0.1), "gives entropy|its checksum"),
    "its epochs edited": (edit("epochs", to=1), "finished after 1 of 2 epochs|its checksum"),
    "epochs -5": (edit("epochs", to=-5), "finished after -5 of 2 epochs|its checksum"),
    "a score that is a word": (edit("test", "pair", "nll", to="x"), "expected dict|its checksum"),
    "a NaN": (edit("test", "pair", "nll", to=float("nan")), "NaN is not a finite number"),
    "no scores": (edit("test", to={}), "finished without scores|its checksum"),
    "another trial's predictions": (copy("predictions.parquet"), "holds the predictions of another trial|gives "),
    "predictions cut": (predictions(lambda frame: frame[frame.image < 12]), "holds no predictions of 24 images by each"),
    "a member's lost": (predictions(lambda frame: frame[frame.member != "pair"]), "holds no predictions of 24 images by each"),
    "labels changed": (
        predictions(lambda frame: frame.assign(label=np.where(frame.member == "pair", frame.label, 0).astype("int16"))),
        "holds unlike labels",
    ),
    "assignments exchanged": (exchange_assignments, "not the trial of both, repeat, seed 1: alpha"),
}  # fmt: skip


@pytest.mark.parametrize("marks", [True, False], ids=["marked", "unmarked"])
@pytest.mark.parametrize("name", OWNERS)
def test_what_is_not_this_trials_is_left_out_by_name(study, name, marks):
    change, why = OWNERS[name]
    if not marks:
        unmarked(study)
    where = f"trials/{trial(study).name}/"
    change(study)
    kept, problems = left(study)
    assert kept == [repeat for repeat in ALL if repeat != ("both", 1) and (name != "assignments exchanged" or repeat[1] == 2)]
    said = [problem for problem in problems if problem.startswith(where) or name == "assignments exchanged"]
    assert any(part in problem or re.search(part, problem) for part in why.split("|") for problem in said), problems


@pytest.mark.parametrize("trial_name", ["../../x", "/etc", "..", "", "a/b", ".hidden", 7])
def test_an_assignment_that_leaves_the_folder_is_named(study, trial_name):
    outside = shutil.copytree(trial(study), study.parent / "x")
    path = study / "assignments.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [line | {"trial": trial_name} if line["trial"] == outside.name or line["trial"] == trial(study).name else line
               for line in lines]  # fmt: skip
    path.write_text("".join(f"{json.dumps(line)}\n" for line in changed))
    kept, problems = left(study)
    assert ("both", 1) not in kept and len(kept) == 3
    assert any(problem.startswith("assignments.jsonl, line ") and "trial = " in problem for problem in problems)


def test_a_lost_list_of_assignments_is_named(study):
    (study / "assignments.jsonl").unlink()
    found = load.load(study)
    assert not found.records and any("assignments.jsonl: missing or empty" in problem for problem in found.problems)


def test_lost_lines_are_named_and_the_scores_kept(study):
    (trial(study) / "metrics.jsonl").unlink()
    made = build.analyse(study)
    assert made.study.problems == [f"trials/{trial(study).name}/metrics.jsonl: 0 of 2 epochs"]
    assert made.table["both"]["nll"].n == 2 and made.table["both"]["disagreement"].n == 1
    assert f"Left out: trials/{trial(study).name}/metrics.jsonl: 0 of 2 epochs." in tables.markdown(made.study, made.table)


FILES = ("trial.json", "metrics.jsonl", "predictions.parquet")


@pytest.mark.parametrize(
    "damage", [*damages.NO_FILES.values(), lambda path: damages.cut(path, 0.5), lambda path: path.write_text("")]
)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_or_cut_is_named_and_the_rest_goes_on(study, name, damage):
    path = trial(study) / name
    damage(path)
    found = load.load(study)
    gather(found)
    (problem,) = found.problems
    assert problem.startswith(f"trials/{path.parent.name}/{name}")
    assert len(found.finished("both")) == (1 if name == "trial.json" else 2) and len(found.finished("plain")) == 2


def test_predictions_that_unpack_to_more_than_there_can_be_are_not_read(study, monkeypatch):
    path = trial(study) / "predictions.parquet"
    many = pyarrow.array(["pair"] * 10**6).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"member": many, "label": np.zeros(10**6, "int16")}), path)
    assert path.stat().st_size < 10**4
    monkeypatch.setattr("analysis.records.predictions.MOST_ROWS", 10**5)
    kept, (problem,) = left(study)
    assert kept == ALL and "cannot be read (it unpacks to 1,000,000 rows" in problem


HEADERS = {
    "settings": ({"epochs": 2}, "settings: fields arch"),
    "arms": (["both", "both"], "arms = "),
    "seeds": ([1, 2, 2], "seeds = "),
    "baseline": ("none of them", ".* which are no arms"),
    "compare": (["x"], ".* which are no arms"),
    "members": ({"both": "nobody"}, "members = "),
    "surface": ({"alpha": [1.0]}, "surface = "),
    "samples": (-1, "samples = -1"),
    "world_size": (0, "world_size = 0"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_study_that_cannot_be_is_one_line(study, name):
    value, why = HEADERS[name]
    damages.rewrite(study / "study.json", lambda header: header | {name: value})
    with pytest.raises(RecordError, match=f"study.json: {why}") as error:
        load.load(study)
    assert "remove it and run the study's command again" in str(error.value)


def test_outputs_replace_links_and_do_not_follow_them(study, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    names = ["table.md", "table.csv", "table.tex", "answer.md", "report.html", "reliability.png", "reliability.pdf"]
    names += ["learning.png", "learning.pdf", "differences.png", "differences.pdf"]
    for name in names:
        (study / name).unlink()
        (study / name).symlink_to(outside)
    build.build(study)
    assert outside.read_text() == "mine"
    assert all((study / name).is_file() and not (study / name).is_symlink() for name in names)


def test_a_folder_of_trials_that_is_a_link_is_refused(study, tmp_path):
    """The study's own folder may be one."""
    (tmp_path / "link").symlink_to(study)
    assert run(tmp_path / "link")[0] == 0
    own = trial(study)
    for path in (own, study / "trials", own / "store"):
        kept = path.rename(tmp_path / "elsewhere") if path.exists() else tmp_path / "nowhere"
        path.symlink_to(kept)
        code, _, err = run(study)
        assert code == 2 and "is a link, or holds one, which leads out of the study's folder: remove it" in err
        path.unlink()
        if kept.exists():
            kept.rename(path)


def test_a_damaged_trial_is_trained_again_and_said_so(study, trained):
    damages.flip(trial(study) / "trial.json", 0.5)
    before = (trained / "table.csv").read_text()
    code, _, err = run(study)
    assert code == 0, err
    table = (study / "table.md").read_text()
    assert f"Note on {trial(study).name}: trial.json was damaged (" in table and "is kept as trial.json.damaged" in table
    assert (study / "table.csv").read_text() == before
