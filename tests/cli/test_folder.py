"""A folder goes on under the flags that it was begun with; whatever else would make other trials is refused."""

import contextlib
import dataclasses
import errno
import os
from dataclasses import asdict, replace

import pytest
from helpers.command import prepared, run

from mldiv.cli.folder import open_folder
from mldiv.config import TrialConfig
from mldiv.records import study_files
from mldiv.records.contents import TrialRecord
from mldiv.settings.setting import TRIAL, ConfigError, sparing
from mldiv.study import Study


@pytest.fixture(scope="module")
def study(load_study) -> Study:
    return load_study("kernel_sweep")


def test_two_runs_in_one_folder(study, capsys, tmp_path):
    """The second says who holds it, and may look at the plan."""
    held = replace(prepared(study), place=str(tmp_path))
    with open_folder(held):
        code, _, err = run(study, capsys, "--in-process", "--out", str(tmp_path))
        assert code == 2 and f"process {os.getpid()}, host " in err[0] and "is in use by another run" in err[0]
        assert run(study, capsys, "--dry-run", "--out", str(tmp_path))[0] == 0
    with open_folder(held):
        pass
    assert not (tmp_path / ".running.json").exists()


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks available")])
def test_a_folder_whose_file_system_has_no_locks_is_named(study, capsys, tmp_path, monkeypatch, error):
    monkeypatch.setattr("filelock.FileLock._acquire", lambda lock: (_ for _ in ()).throw(error))
    code, _, err = run(study, capsys, "--in-process", "--out", str(tmp_path))
    assert code == 2 and f"{tmp_path}: its files cannot be locked ({error.args[-1]})" in err[0] and "another --out" in err[0]


def test_other_images_in_the_same_place_are_refused(study, capsys, tmp_path):
    record = prepared(study).header
    study_files.write_study(tmp_path, replace(record, fingerprint="of other images"))
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--dry-run")
    assert code == 2 and "fingerprint ('of other images' there" in err[0] and "cp -r" not in err[0]
    study_files.write_study(tmp_path, replace(record, fingerprint=None))  # as mldiv 0.5.0 left it
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == 0


def test_copied_trials_of_other_images_are_refused(study, capsys, tmp_path):
    """They would count as trained: a trial's name does not say which images lie at its place."""
    run_ = prepared(study)
    for data, code in (({"whole_fingerprint": "other"}, 2), ({"test_fingerprint": "other"}, 2), ({}, 0)):
        study_files.write_trial(tmp_path / "trials" / "a", TrialRecord("a", asdict(run_.base), status="finished", data=data))
        assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == code
    changed = replace(run_.base, train_size=500)
    other = TrialRecord("a", asdict(changed), status="finished", data={"whole_fingerprint": "of another cut"})
    study_files.write_trial(tmp_path / "trials" / "a", other)
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == 0
    with_fewer = replace(study, arms=lambda base: study.arms(base) | {"few": {"train_size": 500}})
    assert run(with_fewer, capsys, "--out", str(tmp_path), "--dry-run")[0] == 2


def test_a_study_from_before_a_setting_existed_was_trained_as_then(study, capsys, tmp_path):
    """Whatever its default is by now."""
    record = prepared(study, "--set", "stage_schedule=continue").header
    old = {name: value for name, value in record.settings.items() if name != "stage_schedule"}
    study_files.write_study(tmp_path, replace(record, settings=old))
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--dry-run")
    assert code == 2 and "stage_schedule ('continue' there, 'restart' here)" in err[0]
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run", "--set", "stage_schedule=continue")[0] == 0


def test_the_folder_of_another_study_is_no_place_for_this_one(study, capsys, tmp_path):
    study_files.write_study(tmp_path, dataclasses.replace(prepared(study).header, name="another"))
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--dry-run")
    assert code == 2 and "It is another study's folder: take another --out" in err[0] and "--set" not in err[0]


def test_a_folder_of_another_configuration_is_refused(study, capsys, tmp_path):
    header = prepared(study, "--out", str(tmp_path)).header
    study_files.write_study(tmp_path, header)
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--seeds", "2", "--arch", "resnet20", "--dry-run")
    assert code == 2 and len(err) == 1
    assert (
        "seeds ([1, 2, 3] there, [1, 2] here)" in err[0]
        and '(--seeds 3 --set arch="resnet8")' in err[0]
        and "arch ('resnet8' there, 'resnet20' here)" in err[0]
    )
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--arm", "rbf", "--dry-run")
    said = f"study: arms ({header.arms} there, {[header.baseline, 'rbf']} here). Use the same flags"
    assert code == 2 and said in err[0], "what follows from the arms is not said again"
    study_files.write_study(tmp_path, dataclasses.replace(header, settings=header.settings | {"data_root": "/moved"}))
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == 0
    (tmp_path / "study.json").write_text("{")
    code, _, err = run(study, capsys, "--out", str(tmp_path))
    assert code == 2 and "study.json: not valid JSON" in err[0]
    assert err[0].endswith("remove it and run the study's command again, which writes it anew and keeps every trial")


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"mine": "0123456789ab"}, {}, "(--plugin '/there/my own.py')"),
        ({"mine": "0123456789ab"}, {"mine": "ba9876543210"}, "(--plugin '/there/my own.py' as it was then)"),
        ({}, {"mine": "ba9876543210"}, "(without the plug-in mine)"),
    ],
)
def test_a_folder_of_other_plugins_says_which_it_had(study, tmp_path, there, here, said):
    """It said "use the same flags" of a file that had changed, and named the flags without the plug-in."""
    asked = prepared(study, "--out", str(tmp_path), "--dry-run")
    files = {"mine": "/there/my own.py"} if there else {}
    study_files.write_study(tmp_path, dataclasses.replace(asked.header, plugins=there, plugin_files=files))
    asked = dataclasses.replace(asked, header=dataclasses.replace(asked.header, plugins=here))
    with pytest.raises(ConfigError) as error, open_folder(asked):
        pass
    assert f"Use the same flags to continue it {said}, or another --out" in str(error.value)


#: Other values of study.json's fields, of the right type, where "other", 17, ["other"] or {"other": {}} is not.
OTHER = {"plugin_files": {"other": "other.py"},
    "early_stopping": "other", "surface": {"alpha": [1.0, 2.0]}, "members": {"other": "pair"}, "searched": {"other": []},
    "seeds": [17], "looks": [17], "level": 0.5, "search_seeds": [17], "margins": {"nll": 1.0, "accuracy": 1.0, "ece": 1.0},
    "plugins": {"other": "0123456789ab"},
}  # fmt: skip


def other(name, value):
    """A value of the same type."""
    if isinstance(value, bool):
        return not value
    return OTHER.get(name) or {str: "other", int: 17, list: ["other"], dict: {"other": {}}}[type(value)]


@pytest.fixture
def described(monkeypatch):
    """Dry runs look at the folder alone: what they say takes a second, and is not looked at here."""
    monkeypatch.setattr("mldiv.cli.dry_run.describe", lambda *given: "")


def test_whatever_differs_in_a_folder_is_refused(study, capsys, tmp_path, described):
    """Every field of study.json and every setting, but what moves no number: versions, words about the data, paths."""
    header = prepared(study).header
    left_out = {"settings", "schema", "chosen", "importance", "drawn", "grown"}
    changed = {name: {name: other(name, value)} for name, value in vars(header).items() if name not in left_out}
    changed |= {name: {"settings": header.settings | {name: "other"}} for name in header.settings if name != "data"}
    taken = {"environment", "data", "trends", "plugin_files", "kernel_defaults"} | sparing(TrialConfig, TRIAL)
    asked = prepared(study, "--out", str(tmp_path), "--dry-run")
    for name, changes in changed.items():
        study_files.write_study(tmp_path, dataclasses.replace(header, **changes))
        refused = contextlib.nullcontext() if name in taken else pytest.raises(ConfigError)
        with refused as error, open_folder(asked):
            pass
        if name not in taken:
            assert f"{name} ({changes.get(name, 'other')!r} there" in str(error.value), name
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == 2  # as the last one was


def test_a_folder_from_before_a_setting_was_there_goes_on_with_its_default(study, capsys, tmp_path, described):
    header = prepared(study).header
    settings = {name: value for name, value in header.settings.items() if name != "mutual_weight"}
    study_files.write_study(tmp_path, dataclasses.replace(header, settings=settings))
    assert run(study, capsys, "--out", str(tmp_path), "--dry-run")[0] == 0
    code, _, err = run(study, capsys, "--out", str(tmp_path), "--dry-run", "--set", "mutual_weight=0.5")
    assert code == 2 and "mutual_weight (1.0 there, 0.5 here)" in err[0]
