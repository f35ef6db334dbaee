import errno
import itertools
import json
import os
import threading
from dataclasses import asdict

import pytest

from mldiv.config import TrialConfig
from mldiv.records import checked_files, study_files
from mldiv.records.checked_files import Damaged, RecordError
from mldiv.records.contents import SPARED, Assignment, StudyRecord, TrialRecord, TrialTask, trial_id
from mldiv.settings import setting


def test_identity_does_not_depend_on_the_order():
    identity = trial_id({"a": 1, "b": 2.0})
    assert identity == trial_id({"b": 2.0, "a": 1})
    assert identity != trial_id({"a": 2, "b": 2.0})
    assert len(identity) == 16


def test_round_trip_without_nan(tmp_path):
    record = TrialRecord("x", {"a": 1}, status="finished", test={"pair": {"nll": float("nan"), "ece": 0.1}})
    study_files.write_trial(tmp_path, record)
    assert study_files.read_trial(tmp_path).test == {"pair": {"nll": None, "ece": 0.1}}
    assert "NaN" not in (tmp_path / "trial.json").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 3, "id"', "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"schema": 99}', "schema version 99"),
        ('{"schema": 3, "id": "x"}', "config, status are missing"),
        ('{"schema": 3, "id": "x", "config": {}, "status": "finished", "odd": 1}', "unknown fields odd"),
        ('{"schema": 3, "id": "x", "config": {}, "status": "odd"}', "unknown status"),
        ('{"schema": 3, "id": "x", "config": {}, "status": "failed", "epochs": "3"}', "epochs = '3': expected int"),
        (
            '{"schema": 3, "id": "x", "config": {}, "status": "failed", "test": {"pair": 0.5}}',
            "test = {'pair': 0.5}: expected dict",
        ),
    ],
)
def test_damaged_records_are_named(tmp_path, content, message):
    (tmp_path / "trial.json").write_text(content)
    with pytest.raises(RecordError, match=message) as error:
        study_files.read_trial(tmp_path)
    assert "trial.json" in str(error.value)


def test_truncated_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    study_files.append_line(path, {"epoch": 0})
    with path.open("a") as file:
        file.write('{"epoch": 1, "nl')
    with pytest.raises(RecordError, match="line 2"):
        list(checked_files.read_lines(path))


def test_resuming_drops_later_epochs_and_a_half_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in range(4):
        study_files.append_line(path, {"epoch": epoch})
    with path.open("a") as file:
        file.write('{"epoch": 4, "nl')
    study_files.keep_epochs(path, 2)
    assert [line["epoch"] for line in checked_files.read_lines(path)] == [0, 1]
    study_files.keep_epochs(tmp_path / "none", 2)
    assert list(checked_files.read_lines(tmp_path / "none")) == []


def test_readers_never_see_half_a_file(tmp_path):
    path, seen = tmp_path / "file.json", []
    stop = threading.Event()

    def read():
        while not stop.is_set():
            if path.exists():
                seen.append(len(json.loads(path.read_text())["x"]))

    reader = threading.Thread(target=read)
    reader.start()
    for size in itertools.takewhile(lambda size: reader.is_alive() and (size < 50 or len(seen) < 50), itertools.count()):
        study_files.write_json(path, {"x": "y" * 10_000 * (size % 3)})
    stop.set()
    reader.join()
    assert len(seen) >= 50 and set(seen) <= {0, 10_000, 20_000}
    assert [item.name for item in tmp_path.iterdir()] == ["file.json"]


def test_assignments(tmp_path):
    items = [Assignment("a", "search", 0, "x"), Assignment("b", "repeat", 1, "y")]
    study_files.write_assignments(tmp_path, items)
    assert study_files.read_assignments(tmp_path) == items
    assert study_files.find_trial(tmp_path, "x") is None


# study.json, and the task that travels


def study(**changed):
    given = {
        "compare": ["b"], "samples": 3, "search_seeds": [0], "searched": {"a": [], "b": ["lr"]}, "selection": "lowest",
        "data_is_subset": False, "world_size": 1, "name": "s", "question": "?", "scientific": "kernel", "preset": "demo",
        "baseline": "a", "arms": ["a", "b"], "changes": {"a": {}, "b": {"kernel": "rbf"}}, "seeds": [1, 2],
        "settings": {"epochs": 3, "data_root": None}, "data": "digits", "environment": {"mldiv": "1"},
        "surface": {"alpha": [0.01, 10.0]}, "contrasts": {"b less a": {"b": 1.0, "a": -1}},
    }  # fmt: skip
    return StudyRecord(**given | changed)


@pytest.mark.parametrize("end", [{}, {"chosen": {"b": {"lr": 0.1}}, "importance": {}}])
def test_a_study_survives_its_round_trip(tmp_path, end):
    study_files.write_study(tmp_path, study(**end))
    assert study_files.read_study(tmp_path) == study(**end)


def test_the_keys_of_study_json_and_their_order(tmp_path):
    """Folders written before are continued, and compared byte for byte: nothing may move."""
    keys = [
        "compare", "contrasts", "members", "samples", "search_seeds", "searched", "batch", "selection", "objectives",
        "early_stopping", "surface", "data_is_subset", "world_size", "schema", "name", "question", "scientific", "preset",
        "baseline", "arms", "changes", "seeds", "settings", "data", "environment",
    ]  # fmt: skip
    study_files.write_study(tmp_path, study())
    assert list(json.loads((tmp_path / "study.json").read_text())) == [*keys, "margins"]
    study_files.write_study(tmp_path, study(chosen={}, importance={}))
    assert list(json.loads((tmp_path / "study.json").read_text())) == [*keys, "chosen", "importance", "margins"]
    grown = study(drawn=[["lr"], ["alpha"]], looks=[3, 4], level=0.025)
    study_files.write_study(tmp_path, grown)
    assert set(json.loads((tmp_path / "study.json").read_text())) == {*keys, "margins", "drawn", "looks", "level"}
    assert study_files.read_study(tmp_path) == grown


def without(name):
    return lambda value: {key: kept for key, kept in value.items() if key != name}


DAMAGES = [
    (lambda value: {**value, "seeds": 3}, "seeds = 3: expected list"),
    (lambda value: {**value, "seeds": [1, "2"]}, r"seeds = \[1, '2'\]: expected list\[int\]"),
    (lambda value: {**value, "arms": None}, "arms = None: expected list"),
    (lambda value: {**value, "samples": True}, "samples = True: expected int"),
    (lambda value: {**value, "data_is_subset": 1}, "data_is_subset = 1: expected bool"),
    (lambda value: {**value, "searched": {"a": "lr"}}, "searched = .*: expected dict"),
    (lambda value: {**value, "contrasts": {"x": {"a": "1"}}}, "contrasts = .*: expected dict"),
    (lambda value: {**value, "early_stopping": 1}, "early_stopping = 1: expected str"),
    (without("seeds"), "fields seeds are missing"),
    (without("world_size"), "fields world_size are missing"),
    (lambda value: {**value, "weights": {}, "folds": 5}, "unknown fields folds, weights; if a newer mldiv wrote them"),
    (lambda value: list(value), "expected a JSON object, found list"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_study_is_named_and_what_to_do(tmp_path, damage, message):
    study_files.write_study(tmp_path, study())
    path = tmp_path / "study.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(RecordError, match=message) as error:
        study_files.read_study(tmp_path)
    assert str(error.value).startswith(f"{path}: ")
    assert "remove it and run the study's command again" in str(error.value)


@pytest.mark.parametrize(("content", "message"), [
    ('{"schema": 3, "na', "not valid JSON .* remove it and run"), ("\xff", "not valid JSON .* remove it and run"),
    ('{"schema": 99}', "schema version 99, this mldiv reads 3; take the version that wrote it"), (None, "no such file"),
])  # fmt: skip
def test_what_is_no_study_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "study.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RecordError, match=message):
        study_files.read_study(tmp_path)


def test_a_folder_of_studies_and_a_compact_copy_are_told_from_nothing(tmp_path):
    for name in ("one/study.json", "two/records.tar.xz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    for folder, said in ((tmp_path, "studies are in its folders one, two"), (tmp_path / "two", "is a compact copy.*--unpack")):
        with pytest.raises(RecordError, match=f"study.json: no such file; .*{said}"):
            study_files.read_study(folder)


def test_a_task_survives_its_way():
    task = TrialTask(
        trial="x", config={"a": 1.5, "b": None}, folder="f", store=None, store_limit=7, publish=[2, 4], bracket="b"
    )
    assert TrialTask.read(json.loads(json.dumps(asdict(task)))) == task
    for damage, message in (
        (without("folder"), "a trial's task: fields folder are missing"),
        (lambda value: {**value, "publish": ["2"]}, r"a trial's task: publish = \['2'\]: expected list\[int\]"),
        (lambda value: {**value, "more": 1}, "a trial's task: unknown fields more"),
    ):
        with pytest.raises(RecordError, match=message):
            TrialTask.read(damage(asdict(task)))


# Whose a record is


def test_the_settings_that_are_no_part_of_an_identity_are_those_that_say_so():
    """`records` may not import the settings, which need torch."""
    assert setting.sparing(TrialConfig, setting.TRIAL) == SPARED


@pytest.mark.parametrize("name", ["status", "epochs", "attempts", "seconds", "test", "validation", "switch", "notes", "reason"])
def test_whatever_is_edited_in_a_record_is_found_out(tmp_path, name):
    study_files.write_trial(tmp_path, TrialRecord("x", {"a": 1}, status="finished", test={"pair": {"nll": 0.5}}))
    value = json.loads((tmp_path / "trial.json").read_text())
    other = {"status": "stopped", "epochs": 3, "attempts": 2, "seconds": 9.0, "notes": ["x"], "reason": "x"}
    (tmp_path / "trial.json").write_text(
        json.dumps(value | {name: other.get(name, {})} if value[name] else value | {name: other.get(name, {"a": 1})})
    )
    with pytest.raises(Damaged, match="its checksum does not fit its content"):
        study_files.read_trial(tmp_path)


def test_a_record_without_a_checksum_is_read(tmp_path):
    """As mldiv 0.5.0 left it; one of today's has lost it."""
    record = TrialRecord("x", {"a": 1}, status="finished")
    value = asdict(record)
    study_files.write_json(tmp_path / "trial.json", {name: part for name, part in value.items() if name != "left_out"})
    assert study_files.read_trial(tmp_path) == record
    study_files.write_json(tmp_path / "trial.json", value)
    with pytest.raises(Damaged, match="its checksum is missing"):
        study_files.read_trial(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "..", ".x", "a/b", ""])
def test_an_assignment_stays_in_its_folder(tmp_path, name):
    study_files.write_assignments(tmp_path, [Assignment("a", "search", 0, name), Assignment("b", "repeat", 1, "y")])
    problems = []
    assert [item.trial for item in study_files.read_assignments(tmp_path, problems)] == ["y"]
    assert len(problems) == 1 and "assignments.jsonl, line 1: trial = " in problems[0]
    with pytest.raises(Damaged, match="expected the name of a folder in trials"):
        study_files.read_assignments(tmp_path)


@pytest.mark.parametrize(
    "write", [lambda path: checked_files.write_atomically(path, "x"), lambda path: study_files.append_line(path, {})]
)
def test_a_full_disk_is_told_with_the_file(write, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics.jsonl'"):
        write(tmp_path / "metrics.jsonl")
