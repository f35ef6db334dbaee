"""The store under attack: damaged entries, killed processes, full disks, eviction."""

import contextlib
import errno
import fcntl
import functools
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import time
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mldiv import store as module
from mldiv.store import Damaged, Store, load, save_atomically, seal, unseal

CPU = torch.device("cpu")
NAME = "trunks/0123456789abcdef-fedcba9876543210/00002"
STATE = {
    "float": torch.tensor([0.1, -0.0, float("nan"), float("inf"), 1e-45]),
    "half": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "whole": {"deep": torch.tensor([[2**62 - 1, -1]])},
    "scalar": torch.tensor(0.1, dtype=torch.float64),
    "empty": torch.empty(0, 3),
    "flags": torch.tensor([True, False]),
    "plain": [1, 0.1, None, "text", True],
}
HEADER = len(b"mldiv-store 1 ") + 64

PROCESSES = multiprocessing.get_context("forkserver")  # one process imports torch, all others are its forks
PROCESSES.set_forkserver_preload(["mldiv.fit", "pytest", "hypothesis.strategies"])


def same(one, two):
    """Equal bit for bit, NaN included."""
    if isinstance(one, torch.Tensor):
        alike = one.dtype == two.dtype and one.shape == two.shape
        return alike and one.reshape(-1).view(torch.uint8).tolist() == two.reshape(-1).view(torch.uint8).tolist()
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[name], two[name]) for name in one)
    return type(one) is type(two) and one == two


def never():
    raise AssertionError("computed although it is stored")


def temporaries(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextlib.contextmanager
def processes(target, *arguments):
    """One process for each tuple of arguments; whatever happens, none is left."""
    started = [PROCESSES.Process(target=target, args=one) for one in arguments]
    try:
        for one in started:
            one.start()
        yield started
    finally:
        for one in started:
            one.kill()
            one.join()


# Bytes


def test_round_trip_bit_for_bit(tmp_path):
    one = Store(tmp_path)
    assert one.read(NAME, CPU) is None and not one.has(NAME)
    assert one.publish(NAME, STATE)
    assert same(Store(tmp_path).read(NAME, CPU), STATE) and same(one.get(NAME, never, CPU), STATE)
    assert list(one.entries()) == [NAME] and not one.messages and not temporaries(tmp_path)


def test_a_sealed_entry_is_found_by_its_bytes_alone(tmp_path):
    path = Store(tmp_path).path("x")
    path.parent.mkdir(parents=True)
    path.write_bytes(seal(STATE))
    assert same(Store(tmp_path).read("x", CPU), STATE)


def read_damaged(one, data):
    """What a read makes of these bytes; None only with the entry gone and named."""
    one.path("x").write_bytes(data)
    one.messages.clear()
    got = one.read("x", CPU)
    if got is None:
        assert not one.has("x") and one.messages[0].startswith("entries/x.pt was damaged (")
    return got


def test_a_flip_at_any_byte_is_found(tmp_path):
    """Header, digest, payload. The byte between digest and payload carries nothing: None or the state, nothing else."""
    one, state, bits = Store(tmp_path), {"a": torch.arange(4)}, random.Random(0)
    one.publish("x", state)
    whole = one.path("x").read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= bits.randrange(1, 256)
        got = read_damaged(one, damaged)
        assert got is None or (position == HEADER and same(got, state)), position


def test_any_other_length_is_found(tmp_path):
    one = Store(tmp_path)
    one.publish("x", {"a": torch.arange(4)})
    whole = one.path("x").read_bytes()
    for length in range(len(whole)):
        assert read_damaged(one, whole[:length]) is None, length
    for more in (b"\0", b"\n", whole):
        assert read_damaged(one, whole + more) is None
    assert read_damaged(one, whole) is not None
    with pytest.raises(Damaged, match="not an entry of a store"):
        unseal(whole[: HEADER + 1][:-2])


DAMAGES = {
    "empty": lambda data: b"",
    "first byte only": lambda data: data[:1],
    "header only": lambda data: data[: HEADER + 1],
    "cut by one": lambda data: data[:-1],
    "doubled": lambda data: data * 2,
    "zeros, as a crash leaves them": lambda data: bytes(len(data)),
    "another digest": lambda data: data[: HEADER - 64] + bytes(64) + data[HEADER:],
    "a pickle": lambda data: data[HEADER + 1 :],
    "version": lambda data: data.replace(b"store 1", b"store 2", 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [NAME, "pretrained/0123-4567"])
def test_a_damaged_entry_is_named_removed_and_computed_anew(tmp_path, damage, name):
    one = Store(tmp_path)
    one.publish(name, STATE)
    one.path(name).write_bytes(DAMAGES[damage](one.path(name).read_bytes()))
    assert one.read(name, CPU) is None
    assert not one.has(name) and not one.entries()
    (message,) = one.messages
    assert message.startswith(f"entries/{name}.pt was damaged (") and message.endswith("and is computed anew")
    assert one.read(name, CPU) is None and len(one.messages) == 1
    assert same(one.get(name, lambda: STATE, CPU), STATE)
    assert same(Store(tmp_path).get(name, never, CPU), STATE)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_get_computes_a_damaged_entry_anew(tmp_path_factory, data):
    one = Store(tmp_path_factory.mktemp("store"))
    one.publish("x", STATE)
    whole = bytearray(one.path("x").read_bytes())
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        position = data.draw(st.integers(0, len(whole) - 1).filter(lambda one: one != HEADER))
        whole[position] ^= data.draw(st.integers(1, 255))
    one.path("x").write_bytes(whole)
    calls = []
    assert same(one.get("x", lambda: calls.append(1) or STATE, CPU), STATE)
    assert calls == [1] and "entries/x.pt was damaged" in one.messages[0]
    assert same(Store(one.folder).get("x", never, CPU), STATE)
    shutil.rmtree(one.folder)


def test_an_entry_that_cannot_be_read_is_computed_anew(tmp_path, monkeypatch):
    one = Store(tmp_path)
    one.publish("x", {"a": torch.zeros(1)})
    broken = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(broken))
    assert same(one.get("x", lambda: STATE, CPU), STATE)
    assert one.messages == ["entries/x.pt could not be read (Input/output error) and is computed anew"]


def test_an_entry_of_another_user_is_used(tmp_path, monkeypatch):
    one = Store(tmp_path)
    one.publish("x", STATE)
    denied = PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    monkeypatch.setattr(os, "utime", lambda *_: (_ for _ in ()).throw(denied))
    assert same(one.get("x", never, CPU), STATE)


def test_an_entry_deleted_while_it_is_read_is_missing(tmp_path, monkeypatch):
    one = Store(tmp_path)
    one.publish("x", STATE)
    monkeypatch.setattr(os, "utime", lambda path: path.unlink() or (_ for _ in ()).throw(FileNotFoundError()))
    assert same(one.get("x", lambda: STATE, CPU), STATE) and not one.messages


def test_a_compute_that_fails_leaves_nothing(tmp_path):
    one = Store(tmp_path)
    with pytest.raises(ZeroDivisionError):
        one.get("x", lambda: {"a": 1 / 0}, CPU)
    assert not one.entries() and same(Store(tmp_path).get("x", lambda: STATE, CPU), STATE)


def test_progress_is_kept_until_the_entry_is_there(tmp_path):
    one = Store(tmp_path)
    assert one.read_progress(NAME, CPU) is None
    one.keep_progress(NAME, STATE)
    assert same(Store(tmp_path).read_progress(NAME, CPU), STATE)
    assert not one.has(NAME) and not one.entries() and one.read(NAME, CPU) is None
    one.publish(NAME, STATE)
    assert one.read_progress(NAME, CPU) is None and one.has(NAME)


def test_damaged_progress_is_none(tmp_path):
    one = Store(tmp_path)
    one.keep_progress("x", STATE)
    path = tmp_path / "progress" / "x.pt"
    path.write_bytes(path.read_bytes()[:-7])
    assert one.read_progress("x", CPU) is None and "progress/x.pt was damaged" in one.messages[0]


# Several processes


def compute_slowly(folder, number, seconds):
    """Something that no other process would compute, and a trace of having computed it."""
    (folder / f"computing-{number}").touch()
    time.sleep(seconds)
    return {"who": torch.full((1000,), number)}


def get_in_process(folder, number, seconds):
    (folder / f"ready-{number}").touch()
    until((folder / "go").exists)
    state = Store(folder / "store").get("a/b", functools.partial(compute_slowly, folder, number, seconds), CPU)
    save_atomically(folder / f"got-{number}", state)


def test_four_processes_compute_an_entry_once(tmp_path):
    with processes(get_in_process, *((tmp_path, number, 0.3) for number in range(4))) as started:
        until(lambda: len(list(tmp_path.glob("ready-*"))) == 4)
        (tmp_path / "go").touch()
        for one in started:
            one.join(60)
        assert [one.exitcode for one in started] == [0] * 4
    (computed,) = tmp_path.glob("computing-*")
    for number in range(4):
        got = load(tmp_path / f"got-{number}", CPU)
        assert torch.equal(got["who"], torch.full((1000,), int(computed.name[-1])))


def test_who_waits_computes_when_the_first_is_killed(tmp_path):
    (tmp_path / "go").touch()
    with processes(get_in_process, (tmp_path, 1, 60.0)) as (first,):
        until((tmp_path / "computing-1").exists)
        with processes(get_in_process, (tmp_path, 2, 0.0)) as (second,):
            second.join(0.7)
            assert second.is_alive() and not (tmp_path / "computing-2").exists()
            first.kill()
            second.join(60)
            assert second.exitcode == 0
    assert (load(tmp_path / "got-2", CPU)["who"] == 2).all() and not (tmp_path / "got-1").exists()


def test_who_waits_goes_on_once_it_is_published(tmp_path, monkeypatch):
    """Although its trainer still holds the lock for what it publishes later."""
    monkeypatch.setattr(time, "sleep", lambda _: (_ for _ in ()).throw(AssertionError("waits")))
    one, two = Store(tmp_path), Store(tmp_path)
    with one.hold(["a", "b"]):
        one.publish("a", STATE)
        with two.hold(["a"]):
            assert same(two.read("a", CPU), STATE)
        with pytest.raises(AssertionError, match="waits"), two.hold(["a", "b"]):
            pass
    with two.hold(["b"]):
        pass


def take_turns(folder, names):
    """Hold both, many times, and alone."""
    module.LOOK = 0.001
    (folder / f"ready-{names[0]}").touch()
    until((folder / "go").exists)
    for _ in range(60):
        with Store(folder / "store").hold(names):
            for name in names:
                (folder / name).touch(exist_ok=False)
            time.sleep(0.001)
            for name in names:
                (folder / name).unlink()
    (folder / f"done {'-'.join(names)}").touch()


def test_two_that_want_the_same_two_never_wait_for_each_other(tmp_path):
    with processes(take_turns, (tmp_path, ("a", "b")), (tmp_path, ("b", "a"))) as started:
        until(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
        (tmp_path / "go").touch()
        for one in started:
            one.join(30)
        assert [one.exitcode for one in started] == [0, 0]


# Killed while publishing


def publish_and_hang(folder, function):
    def hang(*_):
        (folder / "hangs").touch()
        time.sleep(60)

    setattr(os, function, hang)
    Store(folder / "store").publish(NAME, {"a": torch.ones(100)})


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("old", [None, {"a": torch.zeros(100)}])
def test_killed_while_publishing(tmp_path, monkeypatch, function, old):
    """The entry is the old one or absent; the half-written file is no entry and is removed once it counts as abandoned."""
    one = Store(tmp_path / "store")
    if old is not None:
        one.publish(NAME, old)
    with processes(publish_and_hang, (tmp_path, function)) as (child,):
        until((tmp_path / "hangs").exists)
        child.kill()
    (left,) = temporaries(tmp_path / "store" / "entries")
    got = one.read(NAME, CPU)
    assert (got is None) if old is None else same(got, old)
    assert list(one.entries()) == [NAME] * (old is not None) and not one.messages
    one.publish("other", STATE)
    assert left.exists()  # it might be another's that is just being written
    os.utime(left, (0, 0))
    one.publish("other", STATE)
    assert not left.exists() and same(one.get("other", never, CPU), STATE)
    assert one.has(NAME) == (old is not None)


def test_a_sweep_takes_what_is_abandoned_and_nothing_else(tmp_path, monkeypatch):
    one = Store(tmp_path)
    one.publish(NAME, STATE)
    left = one.path(NAME).with_name(f".{one.path(NAME).name}.0123456789abcdef")
    left.write_bytes(b"half")
    one.evict()
    assert left.exists()
    monkeypatch.setattr(module, "ABANDONED", -1.0)
    assert one.evict() == [] and not left.exists() and same(one.get(NAME, never, CPU), STATE)


def test_half_written_progress_is_swept_too(tmp_path, monkeypatch):
    one = Store(tmp_path)
    one.keep_progress(NAME, STATE)
    path = tmp_path / "progress" / f"{NAME}.pt"
    left = path.with_name(f".{path.name}.0123456789abcdef")
    left.write_bytes(b"half")
    monkeypatch.setattr(module, "ABANDONED", -1.0)
    one.publish("other", STATE)
    assert path.exists() and not left.exists()


SIZE = 200_000


def publish_for_ever(folder, number):
    one = Store(folder)
    while True:
        number += 1
        one.publish("x", {"number": number, "all": torch.full((SIZE,), number)})


def test_killed_at_any_moment_of_publishing(tmp_path):
    one, moments = Store(tmp_path), random.Random(0)
    for round_ in range(20):
        before = one.path("x").stat().st_mtime_ns if one.has("x") else 0
        with processes(publish_for_ever, (tmp_path, 10_000 * round_)) as (child,):
            until(lambda before=before: one.has("x") and one.path("x").stat().st_mtime_ns != before)
            time.sleep(moments.uniform(0, 0.01))
            child.kill()
            child.join()
        got = one.read("x", CPU)
        assert (got["all"] == got["number"]).all() and len(got["all"]) == SIZE
        assert got["number"] // 10_000 == round_
    assert not one.messages and list(one.entries()) == ["x"]


def read_for_ever(folder):
    one, last = Store(folder), 0
    (folder / "reads").touch()
    while not (folder / "enough").exists():
        state = one.read("x", CPU)
        assert (state["all"] == state["number"]).all() and not one.messages
        last = max(last, state["number"])
    (folder / f"saw-{last}").touch()


def test_a_reader_never_sees_half_an_entry(tmp_path):
    one = Store(tmp_path)
    one.publish("x", {"number": 0, "all": torch.zeros(SIZE)})
    with processes(read_for_ever, (tmp_path,)) as (child,):
        until((tmp_path / "reads").exists)
        for number in range(1, 40):
            one.publish("x", {"number": number, "all": torch.full((SIZE,), number)})
        (tmp_path / "enough").touch()
        child.join(60)
        assert child.exitcode == 0
    (saw,) = tmp_path.glob("saw-*")
    assert int(saw.name[4:]) > 0


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
    assert same(load(folder / "checkpoint.pt", CPU), STATE) and not temporaries(folder)


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
