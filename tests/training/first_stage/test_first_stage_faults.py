"""Trials that are killed, damaged or full stores, several processes: none of it changes a number."""

import errno
import os
import shutil
import time

import pytest
import torch
from helpers.first_stages import Killed, check_as_alone, cost, epochs_stored, kill_after, train
from helpers.processes import processes, until
from helpers.store_entries import note_waiting

from mldiv.records import checked_files, study_files
from mldiv.storage import cache as store_module
from mldiv.storage.cache import Store
from mldiv.training.first_stage import SharedFirstStage, first_stage_id
from mldiv.training.fit import fit

# Interrupted


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
@pytest.mark.parametrize("gone", [False, True])
def test_killed_after_starting_from_a_prefix(tiny, tmp_path, alone, led, epoch, gone):
    """At its start, in stage one, in stage two, before the test; with the prefix still there afterwards and without."""
    led(tiny.replace(switch_epoch=1), tmp_path)
    config = tiny.replace(switch_epoch=3, fusion="per_peer")
    with pytest.raises(Killed):
        train(config, tmp_path, report=kill_after(epoch))
    if gone:
        shutil.rmtree(tmp_path / "store" / "entries" / "trunks")
    record = train(config, tmp_path)
    anew = gone and epoch == 0  # no epoch of its own was saved yet
    assert record.attempts == 2 and cost(record)[:2] == ((4, 0) if anew else (3, 1))
    check_as_alone(config, tmp_path / config.id, alone)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_killed_in_stage_one_it_goes_on_from_what_another_stored_meanwhile(tiny, tmp_path, alone, led, cut):
    config = tiny.replace(switch_epoch=3, kernel="rbf")
    with pytest.raises(Killed):
        train(config, tmp_path, report=kill_after(cut))
    with (tmp_path / config.id / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 7, "st')
    led(tiny.replace(switch_epoch=3), tmp_path)
    record = train(config, tmp_path)
    assert cost(record)[:2] == (4 - (2 - cut), 2 - cut)
    shared = [line["shared"] for line in checked_files.read_lines(tmp_path / config.id / "metrics.jsonl")]
    assert shared == [epoch > cut and epoch < 3 for epoch in range(4)]
    check_as_alone(config, tmp_path / config.id, alone)


def test_killed_between_its_lines_and_its_checkpoint_of_a_start(tiny, tmp_path, alone, monkeypatch):
    """The shared lines are written, the record says so, and no checkpoint exists: nothing is counted twice."""
    train(tiny, tmp_path)
    config = tiny.replace(kernel="rbf")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("mldiv.training.loop.train_epoch", lambda *_: (_ for _ in ()).throw(Killed))
        train(config, tmp_path)
    assert len(list(checked_files.read_lines(tmp_path / config.id / "metrics.jsonl"))) == 2
    assert cost(train(config, tmp_path)) == (2, 2, 0)
    check_as_alone(config, tmp_path / config.id, alone)


def test_killed_between_its_checkpoint_and_its_prefix(tiny, tmp_path, alone, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SharedFirstStage, "publish", lambda *_: (_ for _ in ()).throw(Killed))
        train(tiny, tmp_path)
    train(tiny, tmp_path)
    check_as_alone(tiny, tmp_path / tiny.id, alone)
    assert epochs_stored(tmp_path) == [2]


# Damaged and full stores


def damage(folder, epoch):
    (path,) = (folder / "store" / "entries" / "trunks").rglob(f"{epoch:05d}.pt")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def test_a_damaged_prefix_is_trained_anew(tiny, tmp_path, alone, led):
    led(tiny, tmp_path)
    path = damage(tmp_path, 2)
    for kernel, counts in (("rbf", (4, 0, 0)), ("linear", (2, 2, 0))):
        config = tiny.replace(kernel=kernel)
        record = train(config, tmp_path)
        assert cost(record) == counts
        name = path.relative_to(tmp_path / "store")
        note = f"{name} was damaged (its checksum does not fit its content) and is computed anew"
        assert record.notes == ([note] if kernel == "rbf" else [])
        assert study_files.read_trial(tmp_path / config.id).notes == record.notes
        check_as_alone(config, tmp_path / config.id, alone)


def test_beside_a_damaged_prefix_the_next_shorter_one_serves(tiny, tmp_path, alone, led):
    led(tiny.replace(switch_epoch=3), tmp_path, publish=(0, 1, 2, 3))
    damage(tmp_path, 3), damage(tmp_path, 2)
    config = tiny.replace(switch_epoch=3, kernel="rbf")
    record = train(config, tmp_path)
    assert cost(record) == (3, 1, 0) and len(record.notes) == 2
    check_as_alone(config, tmp_path / config.id, alone)
    assert epochs_stored(tmp_path) == [1, 3]


def test_a_damaged_pretrained_network_is_trained_anew(tiny, tmp_path, alone, led):
    led(tiny, tmp_path)
    for path in (tmp_path / "store" / "entries").rglob("*.pt"):
        path.write_bytes(path.read_bytes()[:-1])
    config = tiny.replace(kernel="rbf")
    record = train(config, tmp_path)
    assert cost(record) == (4, 0, 1) and len(record.notes) == 2
    check_as_alone(config, tmp_path / config.id, alone)


def test_a_full_store_costs_no_number(tiny, tmp_path, alone, monkeypatch):
    write = checked_files.write_atomically

    def full(path, data):
        if "entries" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    for kernel in ("cosine", "rbf"):
        config = tiny.replace(kernel=kernel)
        with monkeypatch.context() as patch:
            patch.setattr(store_module, "write_atomically", full)
            record = train(config, tmp_path)
        assert cost(record) == (4, 0, 1) and len(record.notes) == 2  # the pretrained network and the prefix
        assert all("No space left on device" in note for note in record.notes)
        assert any(f"/{2:05d} could not be stored" in note for note in record.notes)
        check_as_alone(config, tmp_path / config.id, alone)


def test_a_store_that_holds_no_more_than_one_entry(tiny, tmp_path, alone):
    """Everything is evicted as soon as something else is stored."""
    for kernel in ("cosine", "rbf"):
        config = tiny.replace(kernel=kernel, switch_epoch=3)
        fit(config, tmp_path / config.id, store=Store(tmp_path / "store", limit=1), publish=(1, 2))
        check_as_alone(config, tmp_path / config.id, alone)
    assert epochs_stored(tmp_path) == [3]


def test_a_prefix_under_another_first_stages_name_is_passed_over(tiny, tmp_path, alone):
    """Its seal is whole, but its settings are not those that its name stands for."""
    other = tiny.replace(temperature=2.0)
    train(other, tmp_path)
    (path,) = (tmp_path / "store" / "entries" / "trunks").rglob("00002.pt")
    folder = path.parent.with_name(path.parent.name.replace(first_stage_id(other), first_stage_id(tiny)))
    folder.mkdir()
    (folder / path.name).write_bytes(path.read_bytes())
    (folder / "00002 copy.pt").write_bytes(path.read_bytes())
    record = train(tiny, tmp_path)
    assert cost(record)[:2] == (4, 0) and "another first stage's prefix" in record.notes[0]
    check_as_alone(tiny, tmp_path / tiny.id, alone)


# Several processes


def train_in_process(config, folder, hang_after):
    torch.set_num_threads(1)
    note_waiting(folder / f"waits-{config.id}")
    (folder / f"ready-{config.id}").touch()
    until((folder / "go").exists)

    def report(line):
        if line["epoch"] == hang_after:
            (folder / "hangs").touch()
            time.sleep(60)
        return False

    train(config, folder, report=report)


def test_two_processes_train_a_first_stage_once(tiny, tmp_path, alone):
    configs = [tiny.replace(kernel=kernel) for kernel in ("rbf", "linear")]
    with processes(train_in_process, *((config, tmp_path, None) for config in configs)) as started:
        until(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
        (tmp_path / "go").touch()
        for process in started:
            process.join(60)
        assert [process.exitcode for process in started] == [0, 0]
    costs = [cost(study_files.read_trial(tmp_path / config.id)) for config in configs]
    assert sorted(costs) == [(2, 2, 0), (4, 0, 1)]
    for config in configs:
        check_as_alone(config, tmp_path / config.id, alone)


def test_the_second_trains_the_first_stage_when_the_first_is_killed(tiny, tmp_path, alone):
    first, second = (tiny.replace(kernel=kernel) for kernel in ("rbf", "linear"))
    (tmp_path / "go").touch()
    with processes(train_in_process, (first, tmp_path, 0)) as (killed,):
        until((tmp_path / "hangs").exists)
        with processes(train_in_process, (second, tmp_path, None)) as (waiting,):
            until(lambda: (tmp_path / f"waits-{second.id}").exists() or not waiting.is_alive())
            assert waiting.is_alive()
            assert not (tmp_path / second.id / "metrics.jsonl").exists()
            killed.kill()
            waiting.join(60)
            assert waiting.exitcode == 0
    assert cost(study_files.read_trial(tmp_path / second.id)) == (4, 0, 0)
    check_as_alone(second, tmp_path / second.id, alone)
    assert cost(train(first, tmp_path)) == (3, 1, 1)  # its own epoch 0, the second's epoch 1, its own stage two
    check_as_alone(first, tmp_path / first.id, alone)


def test_killed_in_stage_two_it_holds_up_nobody(tiny, tmp_path, alone):
    first, second = (tiny.replace(kernel=kernel) for kernel in ("rbf", "linear"))
    (tmp_path / "go").touch()
    with processes(train_in_process, (first, tmp_path, 2)) as (killed,):
        until((tmp_path / "hangs").exists)
        assert cost(train(second, tmp_path)) == (2, 2, 0)  # while the first one hangs
        killed.kill()
        killed.join()
    assert cost(train(first, tmp_path)) == (4, 0, 1)
    for config in (first, second):
        check_as_alone(config, tmp_path / config.id, alone)
