"""The store on an S3 server, as several machines see it."""

import pytest
import torch
from helpers.store_entries import CPU, NAME, STATE, never, same

from mldiv.storage.object_store import Remote
from mldiv.storage.remote_cache import RemoteStore

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


def test_an_entry_is_read_on_another_machine_bit_for_bit(stores):
    one, other = stores(), stores()
    assert isinstance(one, RemoteStore) and one.folder != other.folder and one.place == other.place
    assert not one.has(NAME) and one.read(NAME, CPU) is None and one.names("trunks/0123456789abcdef-fedcba9876543210") == []
    assert one.publish(NAME, STATE)
    assert other.has(NAME) and same(other.read(NAME, CPU), STATE) and same(other.get(NAME, never, CPU), STATE)
    assert other.names(NAME.rpartition("/")[0]) == ["00002"] and list(other.entries()) == [NAME]
    one.remote.remove(f"entries/{NAME}.pt")
    assert same(other.read(NAME, CPU), STATE)  # from this machine's disk
    assert stores().read(NAME, CPU) is None and not one.messages + other.messages


def test_a_damaged_object_is_named_removed_and_computed_anew(stores):
    one, other = stores(), stores()
    one.publish("x", STATE)
    whole = one.remote.read("entries/x.pt")
    one.remote.write("entries/x.pt", whole[:-1])
    assert other.read("x", CPU) is None and not other.has("x") and not one.has("x")
    assert other.messages[0].startswith("entries/x.pt was damaged (")
    assert same(other.get("x", lambda: STATE, CPU), STATE) and one.remote.read("entries/x.pt") == whole


def test_progress_is_the_newest_of_any_machine(stores):
    one, other = stores(), stores()
    one.keep_progress("x", {"epoch": 1})
    assert other.read_progress("x", CPU) == {"epoch": 1}
    other.keep_progress("x", {"epoch": 2})
    assert one.read_progress("x", CPU) == {"epoch": 2}
    other.publish("x", STATE)
    assert one.read_progress("x", CPU) is None


def test_the_oldest_unreferenced_objects_go_first(stores, place, tmp_path):
    one = stores()
    for name in "abc":
        one.publish(name, {"a": torch.zeros(1000)})
    size = one.entries()["a"].size
    studies = tmp_path / "study"
    studies.mkdir()
    one.refer(str(studies), ["a"])
    other = stores(limit=2 * size)
    assert other.evict() == ["b"] and set(one.entries()) == {"a", "c"}
    one.refer(str(studies), [])
    assert stores(limit=size).evict() == ["a"]


def test_references_of_a_study_that_is_gone_do_not_count(stores, place):
    one = stores()
    one.publish("a", {"a": torch.zeros(1000)})
    there = Remote(f"{place}/study")
    one.refer(there.url, ["a"])
    assert one.referenced() == []
    there.write("study.json", b"{}")
    assert [pattern.pattern for pattern in one.referenced()] == ["a"]


def test_a_store_that_refuses_costs_no_result(stores, monkeypatch):
    one = stores()

    def refuse(name, data):
        raise OSError("slow down")

    monkeypatch.setattr(one.remote, "write", refuse)
    assert same(one.get("x", lambda: STATE, CPU), STATE)
    assert one.messages == ["x could not be stored (slow down); training goes on without it"]
