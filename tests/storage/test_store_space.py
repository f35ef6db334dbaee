"""A store on disks without room or locks, the limit that it keeps, and the references that hold entries."""

import errno
import fcntl
import json
import os
import random
import subprocess
import time
import warnings
from pathlib import Path

import pytest
import torch
from helpers.store_entries import CPU, NAME, STATE, never, same, temporaries

from mldiv.storage import cache as module
from mldiv.storage.cache import Store, load, save_atomically, seal

# Disks without room or locks


@pytest.fixture
def mounted(tmp_path):
    """A file system of its own, as small as asked for."""
    folders = []

    def mount(options):
        folder = tmp_path / f"mounted-{len(folders)}"
        folder.mkdir()
        try:
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", "-l", folder], check=True)


BIG = {"a": torch.arange(100_000)}


def check_full(one, folder):
    """What every disk without room for BIG must give."""
    assert one.publish(NAME, BIG) is False
    (message,) = one.messages
    assert message == f"{NAME} could not be stored (No space left on device); training goes on without it"
    assert not temporaries(folder) and not one.entries() and one.read(NAME, CPU) is None
    assert same(one.get(NAME, lambda: BIG, CPU), BIG) and one.messages == [message]
    one.keep_progress(NAME, BIG)
    assert one.messages[1:] == [f"progress of {NAME} could not be saved (No space left on device)"]
    assert one.read_progress(NAME, CPU) is None and not temporaries(folder)


def test_a_disk_that_is_full(mounted):
    folder = mounted("size=256k")
    one = Store(folder)
    check_full(one, folder)
    assert one.publish("small", STATE) and same(Store(folder).get("small", never, CPU), STATE)


def test_an_entry_stays_when_its_successor_finds_no_room(mounted):
    folder = mounted("size=256k")
    one = Store(folder)
    one.publish("x", STATE)
    assert one.publish("x", BIG) is True  # there is still one
    assert same(one.read("x", CPU), STATE) and not temporaries(folder)
    save_atomically(folder / "checkpoint.pt", STATE)
    with pytest.raises(OSError, match="No space left on device"):
        save_atomically(folder / "checkpoint.pt", BIG)
    assert same(load((folder / "checkpoint.pt").read_bytes(), CPU), STATE) and not temporaries(folder)


def test_a_disk_without_room_for_a_lock(mounted):
    folder = mounted("size=1m,nr_inodes=2")
    one = Store(folder)
    assert same(one.get("x", lambda: STATE, CPU), STATE)
    assert "could not be locked" in one.messages[0] and "No space left on device" in one.messages[0]
    assert not one.entries()


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_fills_at_the_last_moment(tmp_path, monkeypatch, function):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, function, lambda *_: (_ for _ in ()).throw(full))
    check_full(Store(tmp_path), tmp_path)


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), PermissionError(errno.EACCES, "Denied")])
def test_without_locks_it_goes_on(tmp_path, monkeypatch, error):
    monkeypatch.setattr(module.FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(error))
    one, two = Store(tmp_path), Store(tmp_path)
    with one.hold(["x"]), two.hold(["x"]):
        assert "x.lock could not be locked" in one.messages[0] and error.strerror in one.messages[0]
    assert same(one.get("y", lambda: STATE, CPU), STATE) and same(two.get("y", never, CPU), STATE)


def test_a_mount_without_locks_makes_nobody_wait(tmp_path, monkeypatch):
    missing = OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(missing))
    monkeypatch.setattr(time, "sleep", lambda _: (_ for _ in ()).throw(AssertionError("waits")))
    one, two = Store(tmp_path), Store(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with one.hold(["x"]), two.hold(["x"]):
            assert "could not be locked" in one.messages[0] and "could not be locked" in two.messages[0]


# Eviction


def size_of(state):
    return len(seal(state))


def filled(folder, names, limit=module.LIMIT):
    """A store with equal entries, each used a second after the one before."""
    one = Store(folder, limit)
    for number, name in enumerate(names):
        one.publish(name, {"a": torch.zeros(100)})
        os.utime(one.path(name), (1000 + number, 1000 + number))
    return one


def unit():
    return size_of({"a": torch.zeros(100)})


@pytest.mark.parametrize("fit", [1, 2, 3, 4])
def test_the_limit_is_kept_and_the_longest_unused_go_first(tmp_path, fit):
    filled(tmp_path, "abcd")
    one = Store(tmp_path, limit=fit * unit())
    assert one.evict() == list("abcd"[: 4 - fit])
    assert sorted(one.entries()) == list("abcd"[4 - fit :])
    assert one.evict() == []


def test_a_byte_too_many_is_too_many(tmp_path):
    filled(tmp_path, "ab")
    assert Store(tmp_path, limit=2 * unit() - 1).evict() == ["a"]


def test_reading_is_use(tmp_path):
    filled(tmp_path, "abc")
    one = Store(tmp_path, limit=unit())
    one.read("a", CPU)
    assert one.evict() == ["b", "c"]


def test_publishing_keeps_to_the_limit_and_keeps_what_it_published(tmp_path):
    one = filled(tmp_path, "abc", limit=3 * unit())
    one.publish("new", {"a": torch.zeros(100)})
    assert sorted(one.entries()) == ["b", "c", "new"]
    small = Store(tmp_path, limit=1)
    os.utime(small.path("new"), (0, 0))
    small.publish("new", {"a": torch.ones(100)})
    assert list(small.entries()) == ["new"] and not small.messages


def test_what_a_study_references_is_kept(tmp_path):
    study, gone = tmp_path / "study", tmp_path / "gone"
    study.mkdir()
    one = filled(tmp_path / "store", ["trunks/ab-12/00002", "trunks/ab-12/00003", "trunks/abc-12/00002", "pretrained/ab-12"])
    one.refer(study, [r"trunks/ab-[0-9a-f]+/00002", r"pretrained/ab-[0-9a-f]+"])
    one.refer(gone, [r".*"])
    one.limit = 0
    assert one.evict() == ["trunks/ab-12/00003", "trunks/abc-12/00002"]
    one.refer(study, ["pretrained/a"])  # whole names, not beginnings; and the study's new word replaces its old
    assert one.evict() == ["trunks/ab-12/00002", "pretrained/ab-12"]


def test_a_study_that_needs_no_more_or_is_gone_holds_nothing(tmp_path):
    studies = [tmp_path / name for name in ("one", "two")]
    one = filled(tmp_path / "store", "ab")
    for study, name in zip(studies, "ab", strict=True):
        study.mkdir()
        one.refer(study, [name])
    one.limit = 0
    assert one.evict() == []
    one.refer(studies[0], ())
    one.refer(studies[0], ())
    assert one.evict() == ["a"]
    studies[1].rmdir()
    assert one.evict() == ["b"]


DAMAGED = [
    "", "{", "[]", "null", '"text"', '{"study": "STUDY", "entries": ["("]}', "\x00\x01",
    "{}", '{"study": "STUDY"}', '{"stuDy": "STUDY", "entries": ["b"]}', '{"study": 5, "entries": []}',
    '{"study": "STUDY", "entries": [5]}', '{"study": "STUDY", "entries": null}',
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_reference_hurts_nobody(tmp_path, text):
    study = tmp_path / "study"
    study.mkdir()
    one = filled(tmp_path / "store", "abc", limit=3 * unit())
    one.refer(study, ["a"])
    (one.folder / "references" / "0.json").write_text(text.replace("STUDY", str(study)))
    (one.folder / "references" / "z.json").write_bytes(b"\xff\xfe")
    assert one.publish("d", {"a": torch.zeros(100)}) and not one.messages
    assert sorted(one.entries()) == ["a", "c", "d"]


def slow_evict(entries, limit, kept):
    """(name, size, time of last use): drop the oldest that is not kept until the sum fits."""
    rest, gone = sorted(entries, key=lambda one: one[2]), []
    while sum(size for _, size, _ in rest) > limit:
        free = [one for one in rest if one[0] not in kept]
        if not free:
            break
        gone.append(free[0][0])
        rest.remove(free[0])
    return gone


@pytest.mark.parametrize("seed", range(20))
def test_eviction_against_a_slow_reference(tmp_path, seed):
    draw = random.Random(seed)
    one, study, entries = Store(tmp_path / "store"), tmp_path / "study", []
    study.mkdir()
    times = draw.sample(range(1000, 2000), 8)
    for number, used in enumerate(times):
        state = {"a": torch.zeros(draw.randrange(2000))}
        one.publish(f"trunks/{number}/0", state)
        os.utime(one.path(f"trunks/{number}/0"), (used, used))
        entries.append((f"trunks/{number}/0", size_of(state), used))
    kept = set(draw.sample([name for name, *_ in entries], draw.randrange(5)))
    one.refer(study, kept)
    keep = draw.choice(["", entries[0][0]])
    one.limit = draw.randrange(sum(size for _, size, _ in entries) + 1000)
    assert one.evict(keep=keep) == slow_evict(entries, one.limit, kept | {keep})


def test_an_entry_deleted_by_another_process_is_passed_over(tmp_path, monkeypatch):
    one = filled(tmp_path, "abc")
    stat = Path.stat

    def deleted_meanwhile(path, **options):
        if path.name == "b.pt":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", deleted_meanwhile)
    assert sorted(one.entries()) == ["a", "c"]


def test_references_are_readable_json(tmp_path):
    one = Store(tmp_path / "store")
    one.refer(tmp_path, {"b", "a"})
    (path,) = (one.folder / "references").glob("*.json")
    assert json.loads(path.read_text()) == {"study": str(tmp_path), "entries": ["a", "b"]}
