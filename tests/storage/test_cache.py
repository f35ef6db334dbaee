"""What a store gives back: an entry bit for bit, or nothing when it is damaged."""

import errno
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from helpers.store_entries import CPU, NAME, STATE, never, same, temporaries
from hypothesis import given, settings
from hypothesis import strategies as st

from mldiv.storage.cache import Damaged, Store, seal, unseal

HEADER = len(b"mldiv-store 1 ") + 64


def test_round_trip_bit_for_bit(tmp_path):
    store = Store(tmp_path)
    assert store.read(NAME, CPU) is None and not store.has(NAME)
    assert store.publish(NAME, STATE)
    assert same(Store(tmp_path).read(NAME, CPU), STATE) and same(store.get(NAME, never, CPU), STATE)
    assert list(store.entries()) == [NAME] and not store.messages and not temporaries(tmp_path)


def test_a_sealed_entry_is_found_by_its_bytes_alone(tmp_path):
    path = Store(tmp_path).path("x")
    path.parent.mkdir(parents=True)
    path.write_bytes(seal(STATE))
    assert same(Store(tmp_path).read("x", CPU), STATE)


def read_damaged(store, data):
    """What a read makes of these bytes; None only with the entry gone and named."""
    store.path("x").write_bytes(data)
    store.messages.clear()
    got = store.read("x", CPU)
    if got is None:
        assert not store.has("x") and store.messages[0].startswith("entries/x.pt was damaged (")
    return got


def test_a_flip_at_any_byte_is_found(tmp_path):
    """Header, digest, payload. The byte between digest and payload carries nothing: None or the state, nothing else."""
    store, state, bits = Store(tmp_path), {"a": torch.arange(4)}, random.Random(0)
    store.publish("x", state)
    whole = store.path("x").read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= bits.randrange(1, 256)
        got = read_damaged(store, damaged)
        assert got is None or (position == HEADER and same(got, state)), position


def test_any_other_length_is_found(tmp_path):
    store = Store(tmp_path)
    store.publish("x", {"a": torch.arange(4)})
    whole = store.path("x").read_bytes()
    for length in range(len(whole)):
        assert read_damaged(store, whole[:length]) is None, length
    for more in (b"\0", b"\n", whole):
        assert read_damaged(store, whole + more) is None, f"{len(more)} bytes more"
    assert read_damaged(store, whole) is not None
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
    store = Store(tmp_path)
    store.publish(name, STATE)
    store.path(name).write_bytes(DAMAGES[damage](store.path(name).read_bytes()))
    assert store.read(name, CPU) is None
    assert not store.has(name) and not store.entries()
    (message,) = store.messages
    assert message.startswith(f"entries/{name}.pt was damaged (") and message.endswith("and is computed anew")
    assert store.read(name, CPU) is None and len(store.messages) == 1
    assert same(store.get(name, lambda: STATE, CPU), STATE)
    assert same(Store(tmp_path).get(name, never, CPU), STATE)


@settings(max_examples=60)
@given(st.data())
def test_get_computes_a_damaged_entry_anew(tmp_path_factory, data):
    store = Store(tmp_path_factory.mktemp("store"))
    store.publish("x", STATE)
    whole = bytearray(store.path("x").read_bytes())
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        position = data.draw(st.integers(0, len(whole) - 1).filter(lambda place: place != HEADER))
        whole[position] ^= data.draw(st.integers(1, 255))
    store.path("x").write_bytes(whole)
    calls = []
    assert same(store.get("x", lambda: calls.append(1) or STATE, CPU), STATE)
    assert calls == [1] and "entries/x.pt was damaged" in store.messages[0]
    assert same(Store(store.folder).get("x", never, CPU), STATE)
    shutil.rmtree(store.folder)


def test_an_entry_that_cannot_be_read_is_computed_anew(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.publish("x", {"a": torch.zeros(1)})
    broken = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(broken))
    assert same(store.get("x", lambda: STATE, CPU), STATE)
    assert store.messages == ["entries/x.pt could not be read (Input/output error) and is computed anew"]


def test_an_entry_of_another_user_is_used(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.publish("x", STATE)
    denied = PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    monkeypatch.setattr(os, "utime", lambda *_: (_ for _ in ()).throw(denied))
    assert same(store.get("x", never, CPU), STATE)


def test_an_entry_deleted_while_it_is_read_is_missing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.publish("x", STATE)
    monkeypatch.setattr(os, "utime", lambda path: path.unlink() or (_ for _ in ()).throw(FileNotFoundError()))
    assert same(store.get("x", lambda: STATE, CPU), STATE) and not store.messages


def test_a_compute_that_fails_leaves_nothing(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.get("x", lambda: {"a": 1 / 0}, CPU)
    assert not store.entries() and same(Store(tmp_path).get("x", lambda: STATE, CPU), STATE)


def test_progress_is_kept_until_the_entry_is_there(tmp_path):
    store = Store(tmp_path)
    assert store.read_progress(NAME, CPU) is None
    store.keep_progress(NAME, STATE)
    assert same(Store(tmp_path).read_progress(NAME, CPU), STATE)
    assert not store.has(NAME) and not store.entries() and store.read(NAME, CPU) is None
    store.publish(NAME, STATE)
    assert store.read_progress(NAME, CPU) is None and store.has(NAME)


def test_damaged_progress_is_none(tmp_path):
    store = Store(tmp_path)
    store.keep_progress("x", STATE)
    path = tmp_path / "progress" / "x.pt"
    path.write_bytes(path.read_bytes()[:-7])
    assert store.read_progress("x", CPU) is None and "progress/x.pt was damaged" in store.messages[0]
