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
from mldiv.storage.cache import Store, seal
from mldiv.storage.files import load, save_atomically

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


def check_full(store, folder):
    """What every disk without room for BIG must give."""
    assert store.publish(NAME, BIG) is False
    (message,) = store.messages
    assert message == f"{NAME} could not be stored (No space left on device); training goes on without it"
    assert not temporaries(folder) and not store.entries() and store.read(NAME, CPU) is None
    assert same(store.get(NAME, lambda: BIG, CPU), BIG) and store.messages == [message]
    store.keep_progress(NAME, BIG)
    assert store.messages[1:] == [f"progress of {NAME} could not be saved (No space left on device)"]
    assert store.read_progress(NAME, CPU) is None and not temporaries(folder)


def test_a_disk_that_is_full(mounted):
    folder = mounted("size=256k")
    store = Store(folder)
    check_full(store, folder)
    assert store.publish("small", STATE) and same(Store(folder).get("small", never, CPU), STATE)


def test_an_entry_stays_when_its_successor_finds_no_room(mounted):
    folder = mounted("size=256k")
    store = Store(folder)
    store.publish("x", STATE)
    assert store.publish("x", BIG) is True  # there is still one
    assert same(store.read("x", CPU), STATE) and not temporaries(folder)
    save_atomically(folder / "checkpoint.pt", STATE)
    with pytest.raises(OSError, match="No space left on device"):
        save_atomically(folder / "checkpoint.pt", BIG)
    assert same(load((folder / "checkpoint.pt").read_bytes(), CPU), STATE) and not temporaries(folder)


def test_a_disk_without_room_for_a_lock(mounted):
    folder = mounted("size=1m,nr_inodes=2")
    store = Store(folder)
    assert same(store.get("x", lambda: STATE, CPU), STATE)
    assert "could not be locked" in store.messages[0] and "No space left on device" in store.messages[0]
    assert not store.entries()


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_fills_at_the_last_moment(tmp_path, monkeypatch, function):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, function, lambda *_: (_ for _ in ()).throw(full))
    check_full(Store(tmp_path), tmp_path)


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), PermissionError(errno.EACCES, "Denied")])
def test_without_locks_it_goes_on(tmp_path, monkeypatch, error):
    monkeypatch.setattr(module.FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(error))
    store, other = Store(tmp_path), Store(tmp_path)
    with store.hold(["x"]), other.hold(["x"]):
        assert "x.lock could not be locked" in store.messages[0] and error.strerror in store.messages[0]
    assert same(store.get("y", lambda: STATE, CPU), STATE) and same(other.get("y", never, CPU), STATE)


def test_a_mount_without_locks_makes_nobody_wait(tmp_path, monkeypatch):
    missing = OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(missing))
    monkeypatch.setattr(time, "sleep", lambda _: (_ for _ in ()).throw(AssertionError("waits")))
    store, other = Store(tmp_path), Store(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with store.hold(["x"]), other.hold(["x"]):
            assert "could not be locked" in store.messages[0] and "could not be locked" in other.messages[0]


# Eviction


def size_of(state):
    return len(seal(state))


def filled(folder, names, limit=module.LIMIT_BYTES):
    """A store with equal entries, each used a second after the one before."""
    store = Store(folder, limit)
    for number, name in enumerate(names):
        store.publish(name, {"a": torch.zeros(100)})
        os.utime(store.path(name), (1000 + number, 1000 + number))
    return store


def unit():
    return size_of({"a": torch.zeros(100)})


@pytest.mark.parametrize("fit", [1, 2, 3, 4])
def test_the_limit_is_kept_and_the_longest_unused_go_first(tmp_path, fit):
    filled(tmp_path, "abcd")
    store = Store(tmp_path, limit=fit * unit())
    assert store.evict() == list("abcd"[: 4 - fit])
    assert sorted(store.entries()) == list("abcd"[4 - fit :])
    assert store.evict() == []


def test_a_byte_too_many_is_too_many(tmp_path):
    filled(tmp_path, "ab")
    assert Store(tmp_path, limit=2 * unit() - 1).evict() == ["a"]


def test_reading_is_use(tmp_path):
    filled(tmp_path, "abc")
    store = Store(tmp_path, limit=unit())
    store.read("a", CPU)
    assert store.evict() == ["b", "c"]


def test_publishing_keeps_to_the_limit_and_keeps_what_it_published(tmp_path):
    store = filled(tmp_path, "abc", limit=3 * unit())
    store.publish("new", {"a": torch.zeros(100)})
    assert sorted(store.entries()) == ["b", "c", "new"]
    small = Store(tmp_path, limit=1)
    os.utime(small.path("new"), (0, 0))
    small.publish("new", {"a": torch.ones(100)})
    assert list(small.entries()) == ["new"] and not small.messages


def test_what_a_study_references_is_kept(tmp_path):
    study, gone = tmp_path / "study", tmp_path / "gone"
    study.mkdir()
    store = filled(tmp_path / "store", ["trunks/ab-12/00002", "trunks/ab-12/00003", "trunks/abc-12/00002", "pretrained/ab-12"])
    store.refer(study, [r"trunks/ab-[0-9a-f]+/00002", r"pretrained/ab-[0-9a-f]+"])
    store.refer(gone, [r".*"])
    store.limit = 0
    assert store.evict() == ["trunks/ab-12/00003", "trunks/abc-12/00002"]
    store.refer(study, ["pretrained/a"])  # whole names, not beginnings; and the study's new word replaces its old
    assert store.evict() == ["trunks/ab-12/00002", "pretrained/ab-12"]


def test_a_study_that_needs_no_more_or_is_gone_holds_nothing(tmp_path):
    studies = [tmp_path / name for name in ("one", "two")]
    store = filled(tmp_path / "store", "ab")
    for study, name in zip(studies, "ab", strict=True):
        study.mkdir()
        store.refer(study, [name])
    store.limit = 0
    assert store.evict() == []
    store.refer(studies[0], ())
    store.refer(studies[0], ())
    assert store.evict() == ["a"]
    studies[1].rmdir()
    assert store.evict() == ["b"]


DAMAGED = [
    "", "{", "[]", "null", '"text"', '{"study": "STUDY", "entries": ["("]}', "\x00\x01",
    "{}", '{"study": "STUDY"}', '{"stuDy": "STUDY", "entries": ["b"]}', '{"study": 5, "entries": []}',
    '{"study": "STUDY", "entries": [5]}', '{"study": "STUDY", "entries": null}',
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_reference_hurts_nobody(tmp_path, text):
    study = tmp_path / "study"
    study.mkdir()
    store = filled(tmp_path / "store", "abc", limit=3 * unit())
    store.refer(study, ["a"])
    (store.folder / "references" / "0.json").write_text(text.replace("STUDY", str(study)))
    (store.folder / "references" / "z.json").write_bytes(b"\xff\xfe")
    assert store.publish("d", {"a": torch.zeros(100)}) and not store.messages
    assert sorted(store.entries()) == ["a", "c", "d"]


def slow_evict(entries, limit, kept):
    """(name, size, time of last use): drop the oldest that is not kept until the sum fits."""
    rest, gone = sorted(entries, key=lambda entry: entry[2]), []
    while sum(size for _, size, _ in rest) > limit:
        free = [entry for entry in rest if entry[0] not in kept]
        if not free:
            break
        gone.append(free[0][0])
        rest.remove(free[0])
    return gone


@pytest.mark.parametrize("seed", range(20))
def test_eviction_against_a_slow_reference(tmp_path, seed):
    draw = random.Random(seed)
    store, study, entries = Store(tmp_path / "store"), tmp_path / "study", []
    study.mkdir()
    times = draw.sample(range(1000, 2000), 8)
    for number, used in enumerate(times):
        state = {"a": torch.zeros(draw.randrange(2000))}
        store.publish(f"trunks/{number}/0", state)
        os.utime(store.path(f"trunks/{number}/0"), (used, used))
        entries.append((f"trunks/{number}/0", size_of(state), used))
    kept = set(draw.sample([name for name, *_ in entries], draw.randrange(5)))
    store.refer(study, kept)
    keep = draw.choice(["", entries[0][0]])
    store.limit = draw.randrange(sum(size for _, size, _ in entries) + 1000)
    assert store.evict(keep=keep) == slow_evict(entries, store.limit, kept | {keep})


def test_an_entry_deleted_by_another_process_is_passed_over(tmp_path, monkeypatch):
    store = filled(tmp_path, "abc")
    stat = Path.stat

    def deleted_meanwhile(path, **options):
        if path.name == "b.pt":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", deleted_meanwhile)
    assert sorted(store.entries()) == ["a", "c"]


def test_references_are_readable_json(tmp_path):
    store = Store(tmp_path / "store")
    store.refer(tmp_path, {"b", "a"})
    (path,) = (store.folder / "references").glob("*.json")
    assert json.loads(path.read_text()) == {"study": str(tmp_path), "entries": ["a", "b"]}
