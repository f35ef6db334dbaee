import json
import threading

import pytest

from mldiv import records
from mldiv.records import Assignment, RecordError, TrialRecord, trial_id


def test_identity_leaves_paths_out_and_order_does_not_matter():
    one = trial_id({"a": 1, "b": 2.0, "root": "/x"}, frozenset({"root"}))
    assert one == trial_id({"b": 2.0, "root": "/y", "a": 1}, frozenset({"root"}))
    assert one != trial_id({"a": 2, "b": 2.0})
    assert len(one) == 16


def test_round_trip_without_nan(tmp_path):
    record = TrialRecord("x", {"a": 1}, status="finished", test={"pair": {"nll": float("nan"), "ece": 0.1}})
    records.write_trial(tmp_path, record)
    assert records.read_trial(tmp_path).test == {"pair": {"nll": None, "ece": 0.1}}
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
    ],
)
def test_damaged_records_are_named(tmp_path, content, message):
    (tmp_path / "trial.json").write_text(content)
    with pytest.raises(RecordError, match=message) as error:
        records.read_trial(tmp_path)
    assert "trial.json" in str(error.value)


def test_truncated_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records.append_line(path, {"epoch": 0})
    with path.open("a") as file:
        file.write('{"epoch": 1, "nl')
    with pytest.raises(RecordError, match="line 2"):
        list(records.read_lines(path))


def test_resuming_drops_later_epochs_and_a_half_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in range(4):
        records.append_line(path, {"epoch": epoch})
    with path.open("a") as file:
        file.write('{"epoch": 4, "nl')
    records.keep_epochs(path, 2)
    assert [line["epoch"] for line in records.read_lines(path)] == [0, 1]
    records.keep_epochs(tmp_path / "none", 2)
    assert list(records.read_lines(tmp_path / "none")) == []


def test_readers_never_see_half_a_file(tmp_path):
    path, seen = tmp_path / "file.json", []
    stop = threading.Event()

    def read():
        while not stop.is_set():
            if path.exists():
                seen.append(len(json.loads(path.read_text())["x"]))

    reader = threading.Thread(target=read)
    reader.start()
    for size in range(50):
        records.write_json(path, {"x": "y" * 10_000 * (size % 3)})
    stop.set()
    reader.join()
    assert seen and set(seen) <= {0, 10_000, 20_000}
    assert [item.name for item in tmp_path.iterdir()] == ["file.json"]


def test_assignments(tmp_path):
    items = [Assignment("a", "search", 0, "x"), Assignment("b", "repeat", 1, "y")]
    records.write_assignments(tmp_path, items)
    assert records.read_assignments(tmp_path) == items
    assert records.find_trial(tmp_path, "x") is None
