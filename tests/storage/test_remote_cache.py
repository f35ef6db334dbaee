"""The store on an S3 server, as several machines see it."""

import pytest
import torch
from helpers.store_entries import CPU, NAME, STATE, never, same

from mldiv.storage.object_store import Remote
from mldiv.storage.remote_cache import RemoteStore

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


def test_an_entry_is_read_on_another_machine_bit_for_bit(stores):
    store, other = stores(), stores()
    assert isinstance(store, RemoteStore) and store.folder != other.folder and store.place == other.place
    assert (
        not store.has(NAME) and store.read(NAME, CPU) is None and store.names("trunks/0123456789abcdef-fedcba9876543210") == []
    )
    assert store.publish(NAME, STATE)
    assert other.has(NAME) and same(other.read(NAME, CPU), STATE) and same(other.get(NAME, never, CPU), STATE)
    assert other.names(NAME.rpartition("/")[0]) == ["00002"] and list(other.entries()) == [NAME]
    store.remote.remove(f"entries/{NAME}.pt")
    assert same(other.read(NAME, CPU), STATE)  # from this machine's disk
    assert stores().read(NAME, CPU) is None and not store.messages + other.messages


def test_a_damaged_object_is_named_removed_and_computed_anew(stores):
    store, other = stores(), stores()
    store.publish("x", STATE)
    whole = store.remote.read("entries/x.pt")
    store.remote.write("entries/x.pt", whole[:-1])
    assert other.read("x", CPU) is None and not other.has("x") and not store.has("x")
    assert other.messages[0].startswith("entries/x.pt was damaged (")
    assert same(other.get("x", lambda: STATE, CPU), STATE) and store.remote.read("entries/x.pt") == whole


def test_a_damaged_copy_is_fetched_anew(stores):
    store = stores()
    store.publish("x", STATE)
    whole = store.path("x").read_bytes()
    store.path("x").write_bytes(whole[:-1])
    assert same(store.read("x", CPU), STATE) and store.has("x") and store.path("x").read_bytes() == whole
    assert len(store.messages) == 1 and "entries/x.pt was damaged on this machine (" in store.messages[0]


def test_progress_is_the_newest_of_any_machine(stores):
    store, other = stores(), stores()
    store.keep_progress("x", {"epoch": 1})
    assert other.read_progress("x", CPU) == {"epoch": 1}
    other.keep_progress("x", {"epoch": 2})
    assert store.read_progress("x", CPU) == {"epoch": 2}
    other.publish("x", STATE)
    assert store.read_progress("x", CPU) is None


def test_the_oldest_unreferenced_objects_go_first(stores, place, tmp_path):
    store = stores()
    for name in "abc":
        store.publish(name, {"a": torch.zeros(1000)})
    size = store.entries()["a"].size
    studies = tmp_path / "study"
    studies.mkdir()
    store.refer(str(studies), ["a"])
    other = stores(limit=2 * size)
    assert other.evict() == ["b"] and set(store.entries()) == {"a", "c"}
    store.refer(str(studies), [])
    assert stores(limit=size).evict() == ["a"]


def test_references_of_a_study_that_is_gone_do_not_count(stores, place):
    store = stores()
    store.publish("a", {"a": torch.zeros(1000)})
    there = Remote(f"{place}/study")
    store.refer(there.url, ["a"])
    assert store.referenced() == []
    there.write("study.json", b"{}")
    assert [pattern.pattern for pattern in store.referenced()] == ["a"]


def test_a_store_that_refuses_costs_no_result(stores, monkeypatch):
    store = stores()

    def refuse(name, data):
        raise OSError("slow down")

    monkeypatch.setattr(store.remote, "write", refuse)
    assert same(store.get("x", lambda: STATE, CPU), STATE)
    assert store.messages == ["x could not be stored (slow down); training goes on without it"]


def test_a_store_that_does_not_answer_costs_no_result(stores, monkeypatch):
    store = stores()

    def silent(*names, **more):
        raise OSError(f"no answer of {names}")

    monkeypatch.setattr(store.remote, "exists", silent)
    monkeypatch.setattr(store.remote, "files", silent)
    assert not store.has("x") and not store.has("y") and store.names("trunks") == []
    assert len(store.messages) == 1 and "does not answer (no answer of ('entries/x.pt',)); training goes" in store.messages[0]
    with store.hold(["x"]), store.hold(["x"]):  # nobody waits for an entry that is never seen
        assert same(store.get("y", lambda: STATE, CPU), STATE)
