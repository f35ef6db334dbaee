"""Several processes with one store: each entry is computed once, whoever is killed at whatever moment."""

import functools
import os
import random
import time

import pytest
import torch
from helpers.processes import processes, until
from helpers.store_entries import CPU, NAME, STATE, never, note_waiting, same, temporaries

from mldiv.storage import cache as module
from mldiv.storage.cache import Store
from mldiv.storage.files import load, save_atomically


def compute_slowly(folder, number, seconds):
    """Something that no other process would compute, and a trace of having computed it."""
    (folder / f"computing-{number}").touch()
    time.sleep(seconds)
    return {"who": torch.full((1000,), number)}


def get_in_process(folder, number, seconds):
    note_waiting(folder / f"waits-{number}")
    (folder / f"ready-{number}").touch()
    until((folder / "go").exists)
    state = Store(folder / "store").get("a/b", functools.partial(compute_slowly, folder, number, seconds), CPU)
    save_atomically(folder / f"got-{number}", state)


def test_four_processes_compute_an_entry_once(tmp_path):
    with processes(get_in_process, *((tmp_path, number, 0.3) for number in range(4))) as started:
        until(lambda: len(list(tmp_path.glob("ready-*"))) == 4)
        (tmp_path / "go").touch()
        for process in started:
            process.join(60)
        assert [process.exitcode for process in started] == [0] * 4
    (computed,) = tmp_path.glob("computing-*")
    for number in range(4):
        got = load((tmp_path / f"got-{number}").read_bytes(), CPU)
        assert torch.equal(got["who"], torch.full((1000,), int(computed.name[-1])))


def test_who_waits_computes_when_the_first_is_killed(tmp_path):
    (tmp_path / "go").touch()
    with processes(get_in_process, (tmp_path, 1, 60.0)) as (first,):
        until((tmp_path / "computing-1").exists)
        with processes(get_in_process, (tmp_path, 2, 0.0)) as (second,):
            until(lambda: (tmp_path / "waits-2").exists() or not second.is_alive())
            assert second.is_alive()
            assert not (tmp_path / "computing-2").exists()
            first.kill()
            second.join(60)
            assert second.exitcode == 0
    assert (load((tmp_path / "got-2").read_bytes(), CPU)["who"] == 2).all() and not (tmp_path / "got-1").exists()


def test_who_waits_goes_on_once_it_is_published(tmp_path, monkeypatch):
    """Although its trainer still holds the lock for what it publishes later."""
    monkeypatch.setattr(time, "sleep", lambda _: (_ for _ in ()).throw(AssertionError("waits")))
    store, other = Store(tmp_path), Store(tmp_path)
    with store.hold(["a", "b"]):
        store.publish("a", STATE)
        with other.hold(["a"]):
            assert same(other.read("a", CPU), STATE)
        with pytest.raises(AssertionError, match="waits"), other.hold(["a", "b"]):
            pass
    with other.hold(["b"]):
        pass


def take_turns(folder, names):
    """Hold both, many times, and alone."""
    module.LOOK_SECONDS = 0.001
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
        for process in started:
            process.join(30)
        assert [process.exitcode for process in started] == [0, 0]


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
    store = Store(tmp_path / "store")
    if old is not None:
        store.publish(NAME, old)
    with processes(publish_and_hang, (tmp_path, function)) as (child,):
        until((tmp_path / "hangs").exists)
        child.kill()
    (left,) = temporaries(tmp_path / "store" / "entries")
    got = store.read(NAME, CPU)
    assert (got is None) if old is None else same(got, old)
    assert list(store.entries()) == [NAME] * (old is not None) and not store.messages
    store.publish("other", STATE)
    assert left.exists()  # it might be another's that is just being written
    os.utime(left, (0, 0))
    store.publish("other", STATE)
    assert not left.exists() and same(store.get("other", never, CPU), STATE)
    assert store.has(NAME) == (old is not None)


def test_a_sweep_takes_what_is_abandoned_and_nothing_else(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.publish(NAME, STATE)
    left = store.path(NAME).with_name(f".{store.path(NAME).name}.0123456789abcdef")
    left.write_bytes(b"half")
    store.evict()
    assert left.exists()
    monkeypatch.setattr(module, "ABANDONED_SECONDS", -1.0)
    assert store.evict() == [] and not left.exists() and same(store.get(NAME, never, CPU), STATE)


def test_half_written_progress_is_swept_too(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.keep_progress(NAME, STATE)
    path = tmp_path / "progress" / f"{NAME}.pt"
    left = path.with_name(f".{path.name}.0123456789abcdef")
    left.write_bytes(b"half")
    monkeypatch.setattr(module, "ABANDONED_SECONDS", -1.0)
    store.publish("other", STATE)
    assert path.exists() and not left.exists()


SIZE = 200_000


def publish_for_ever(folder, number):
    store = Store(folder)
    while True:
        number += 1
        store.publish("x", {"number": number, "all": torch.full((SIZE,), number)})


@pytest.mark.parametrize("rounds", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_of_publishing(tmp_path, rounds):
    store, moments = Store(tmp_path), random.Random(rounds)
    for round_ in range(rounds):
        before = store.path("x").stat().st_mtime_ns if store.has("x") else 0
        with processes(publish_for_ever, (tmp_path, 10_000 * round_)) as (child,):
            until(lambda before=before: store.has("x") and store.path("x").stat().st_mtime_ns != before)
            time.sleep(moments.uniform(0, 0.01))
            child.kill()
            child.join()
        got = store.read("x", CPU)
        assert got is not None, f"round {round_}: {store.messages}"
        assert (got["all"] == got["number"]).all(), f"round {round_}"
        assert len(got["all"]) == SIZE, f"round {round_}"
        assert got["number"] // 10_000 == round_
    assert not store.messages and list(store.entries()) == ["x"]


def read_for_ever(folder):
    store, last = Store(folder), 0
    (folder / "reads").touch()
    while not (folder / "enough").exists():
        state = store.read("x", CPU)
        assert (state["all"] == state["number"]).all() and not store.messages
        last = max(last, state["number"])
    (folder / f"saw-{last}").touch()


def test_a_reader_never_sees_half_an_entry(tmp_path):
    store = Store(tmp_path)
    store.publish("x", {"number": 0, "all": torch.zeros(SIZE)})
    with processes(read_for_ever, (tmp_path,)) as (child,):
        until((tmp_path / "reads").exists)
        for number in range(1, 40):
            store.publish("x", {"number": number, "all": torch.full((SIZE,), number)})
        (tmp_path / "enough").touch()
        child.join(60)
        assert child.exitcode == 0
    (saw,) = tmp_path.glob("saw-*")
    assert int(saw.name[4:]) > 0
