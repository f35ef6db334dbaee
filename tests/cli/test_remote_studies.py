"""Studies on an S3 server: one that goes on elsewhere, one by its command, places that cannot be."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis.build import build
from mldiv.cli.main import main
from mldiv.records import checked_files, study_files
from mldiv.storage.cache import Store
from mldiv.storage.object_store import Remote, working_copy
from mldiv.study import Study
from mldiv.sweep import in_process
from mldiv.sweep.arm import make_arm
from mldiv.sweep.plan import Plan

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


def make_plan(folder, tiny):
    arms = [make_arm("plain", tiny, {"alpha": 0.0, "beta": 0.0}, ()), make_arm("both", tiny, {}, ("alpha",))]
    return Plan(arms, folder, samples=2, seeds=(1,))


def trials(folder):
    """Every trial's numbers, by its id; what differs between runs (times, attempts, who trained) left out."""
    found = {}
    for path in sorted(Path(folder).glob("trials/*")):
        record = study_files.read_trial(path)
        lines = [json.dumps(line["train"] | line["diversity"]) for line in checked_files.read_lines(path / "metrics.jsonl")]
        found[path.name] = record.status, record.test, record.validation, lines, (path / "predictions.parquet").read_bytes()
    return found


class Cut(BaseException):
    """The machine goes away."""


def test_a_study_that_goes_on_elsewhere_equals_one_on_a_disk(tiny, place, stores, tmp_path):
    in_process.run(make_plan(tmp_path / "disk", tiny), tmp_path / "disk", store=Store(tmp_path / "store"))
    expected = trials(tmp_path / "disk")
    assert len(expected) == 4
    for epochs in (3, 5, 6, 100):  # a new machine each time, which goes away after so many epochs
        left = iter(range(epochs))

        def progress(trial, line, left=left):
            if "ended" not in line and next(left, None) is None:
                raise Cut

        with working_copy(f"{place}/study", fetch=False) as copy:
            copy.pull_study(of_trials=("/trial.json",))
            plan = make_plan(copy.local, tiny)
            try:
                in_process.run(plan, copy, store=stores(), progress=progress)
            except Cut:
                assert epochs < 100
    with working_copy(f"{place}/study") as copy:
        got = trials(copy.local)
        attempts = [study_files.read_trial(path).attempts for path in copy.local.glob("trials/*")]
    assert got == expected and max(attempts) > 1


@pytest.mark.slow
def test_a_whole_study_by_its_command(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study(
        name="two", question="What do both give?", scientific="method", searched=(), baseline="plain",
        arms={"plain": {"alpha": 0.0, "beta": 0.0}, "both": {}},
    )  # fmt: skip
    small = [
        "epochs=3", "switch_epoch=1", "pretrain_epochs=1", "train_size=128", "validation_size=60", "test_size=60",
        "validation_samples=1", "test_samples=2", "width=0.25", "ood=none",
    ]  # fmt: skip
    flags = ["--preset", "demo", "--seeds", "2", "--in-process", *itertools.chain(*(["--set", setting] for setting in small))]
    assert main(study, build, [*flags, "--out", f"{place}/two"]) == 0
    out, err = capsys.readouterr()
    assert f"In {place}/two: report.html" in out.replace("\n", " ") and f"(from {place}/trunks)" in err
    there = Remote(f"{place}/two")
    assert {"study.json", "assignments.jsonl", "table.md", "report.html", "answer.md", "optuna.journal"} <= set(
        there.files(deep=False)
    )
    assert Remote(f"{place}/trunks").files("entries") and not list(tmp_path.iterdir())
    assert main(study, build, [*flags, "--out", f"{place}/two"]) == 0
    assert "all trials are recorded, nothing to train" in capsys.readouterr().err
    assert main(study, build, [*flags, "--out", f"{place}/two", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "4 trials, 4 of them recorded already" in out and f"results in {place}/two" in out
    assert main(study, build, [*flags, "--seeds", "1", "--out", f"{place}/two"]) == 2
    assert f"{place}/two holds another configuration of this study" in capsys.readouterr().err
    assert main(study, build, [*flags, "--seeds", "3", "--out", f"{place}/two", "--dry-run"]) == 0
    assert "6 trials, 4 of them recorded already" in capsys.readouterr().out
    analysed(there, tmp_path, monkeypatch)


def analysed(there, tmp_path, monkeypatch):
    """``python -m analysis`` on the study's URL: here, or there anew; under other labels here alone."""
    from analysis import __main__ as command

    before = there.read("table.md")
    monkeypatch.setattr("sys.argv", ["analysis", there.url, "--out", "here", "--format", "md"])
    assert command.main() == 0 and Path("here/table.md").read_bytes() == before
    there.remove("table.md")
    monkeypatch.setattr("sys.argv", ["analysis", there.url, "--format", "md"])
    assert command.main() == 0 and there.read("table.md") == before
    trial = next(name for name in there.files() if name.endswith("trial.json"))
    np.save("other.npy", np.zeros(json.loads(there.read(trial))["data"]["test"], int))
    monkeypatch.setattr("sys.argv", ["analysis", there.url, "--labels", "other.npy", "--format", "md"])
    assert command.main() == 0 and "SCORED ANEW" in Path("labels-other/table.md").read_text()
    assert there.read("table.md") == before
    Path("other.npy").unlink()
    shutil.rmtree("here")
    shutil.rmtree("labels-other")


@pytest.mark.parametrize(
    ("flag", "url", "message"),
    [
        ("--out", "s3://another-bucket/x", "--out s3://another-bucket/x: cannot be written (When"),
        ("--cache", "s3://another-bucket/x", "--cache s3://another-bucket/x: cannot be written (When"),
        ("--out", "nothing://x", "--out nothing://x: no storage that pyarrow knows"),
    ],
)
def test_a_place_that_cannot_be_is_named_before_any_work(bucket, flag, url, message, tmp_path, capsys):
    study = Study("two", "?", "method", {"plain": {}}, (), "plain")
    assert main(study, build, ["--preset", "demo", "--out", str(tmp_path / "x"), flag, url]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.rglob("study.json"))
