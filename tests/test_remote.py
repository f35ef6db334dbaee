"""Study folders on an S3 server: files, working copies, the store, a study that goes on elsewhere."""

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from object_store import serve
from store_entries import CPU, NAME, STATE, never, same

from analysis.build import build
from mldiv import records, remote, serial, study
from mldiv.plan import Plan, make_arm
from mldiv.remote import Copy, Object, Remote, working_copy
from mldiv.remote_store import RemoteStore, open_store
from mldiv.store import Store

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def bucket():
    with serve() as url:
        yield url


@pytest.fixture
def place(bucket, tmp_path):
    """A URL of its own for every test."""
    return f"{bucket}/{tmp_path.name}"


@pytest.mark.parametrize(
    ("place", "joined", "above", "own"),
    [
        ("s3://b/x/y", "s3://b/x/y/trials/t", "s3://b/x", "y"),
        ("s3://b/x/y/?region=r", "s3://b/x/y/trials/t?region=r", "s3://b/x?region=r", "y"),
        ("/a/b", "/a/b/trials/t", "/a", "b"),
    ],
)
def test_places(place, joined, above, own):
    assert remote.join(place, "trials", "t") == joined
    assert remote.parent(place) == above and remote.name(place) == own


def test_files(place):
    one = Remote(place)
    assert not one.exists("a/b") and one.files() == {} and one.files("a") == {}
    with pytest.raises(FileNotFoundError):
        one.read("a/b")
    one.write("a/b", b"first")
    one.write("a/b", b"second")
    one.write("c", b"")
    assert one.read("a/b") == b"second" and one.exists("a/b") and not one.exists("a")
    assert set(one.files()) == {"a/b", "c"} and set(one.files(deep=False)) == {"c"} and set(one.files("a")) == {"b"}
    assert one.files()["a/b"].size == 6
    one.remove("a/b")
    one.remove("a/b")
    assert set(one.files()) == {"c"}
    one.write("d/e/f", b"1")
    one.remove_folder("d")
    one.remove_folder("d")
    assert set(one.files()) == {"c"}


def test_what_is_no_storage(bucket):
    with pytest.raises(ValueError, match="nothing://x: no storage that pyarrow knows"):
        Remote("nothing://x")
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        Remote("s3://another-bucket/x").try_writing()


class Recorder:
    """A remote that notes what is written in which order, and refuses the first ``refusals``."""

    def __init__(self, refusals=0):
        self.written, self.content, self.refusals = [], {}, refusals

    def write(self, name, data):
        if self.refusals:
            self.refusals -= 1
            raise OSError("slow down")
        self.written.append(name)
        self.content[name] = data


def test_files_are_pushed_in_the_order_in_which_they_were_written(tmp_path, monkeypatch):
    there = Recorder()
    copy = Copy(tmp_path, there)
    names = ["trial.json", "predictions.parquet", "checkpoint.pt", "metrics.jsonl"]
    for second, name in enumerate([*names, ".half-written"]):
        (tmp_path / name).write_text(name)
        stamp(tmp_path / name, second)
    copy.push()
    assert there.written == names
    copy.push()
    assert there.written == names
    for name in names:
        (tmp_path / name).write_text("more")
        stamp(tmp_path / name, 9)
    copy.push()
    assert there.written[4:] == ["metrics.jsonl", "predictions.parquet", "checkpoint.pt", "trial.json"]


def stamp(path, seconds):
    os.utime(path, (seconds, seconds))


def test_a_refused_push_is_tried_again_and_nothing_is_sent_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "RETRY", 0.01)
    for second, name in enumerate("abc"):
        (tmp_path / name).write_text(name)
        stamp(tmp_path / name, second)
    there = Recorder(refusals=2)
    with pytest.raises(OSError, match="slow down"):
        Copy(tmp_path, there).push()
    Copy(tmp_path, there).push(patience=10)
    assert there.written == ["a", "b", "c"] and there.refusals == 0


def test_a_working_copy_holds_what_is_there_and_leaves_nothing_here(place):
    with working_copy(place) as copy:
        assert list(copy.local.iterdir()) == [] and copy.place == place
        (copy.local / "sub").mkdir()
        (copy.local / "sub" / "a").write_text("1")
        copy.push()
        here = copy.local
    assert not here.exists() and Remote(place).read("sub/a") == b"1"
    with working_copy(place) as copy, working_copy(place) as other:
        assert (copy.local / "sub" / "a").read_text() == "1"
        copy.push()
        assert Remote(place).files()["sub/a"] == copy.pulled["sub/a"]  # what was only fetched is not sent
        (other.local / "sub" / "a").write_text("2, longer")
        other.push()
        copy.pull(lambda name: name.startswith("x"))
        assert (copy.local / "sub" / "a").read_text() == "1"
        copy.pull()
        assert (copy.local / "sub" / "a").read_text() == "2, longer"
    with working_copy(place, fetch=False) as copy:
        assert list(copy.local.iterdir()) == []


def test_a_folder_is_its_own_working_copy(tmp_path):
    with working_copy(str(tmp_path)) as copy:
        (copy.local / "a").write_text("1")
        copy.pull()
        copy.push()
    assert (tmp_path / "a").exists() and copy.place == str(tmp_path)


# The store


@pytest.fixture
def stores(place, tmp_path, monkeypatch):
    """A function that makes the same store as another machine sees it: with a disk of its own."""
    count = itertools.count()

    def make(limit=10**9):
        disk = tmp_path / f"machine {next(count)}"
        disk.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(disk))
        return open_store(place, limit)

    return make


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


# Studies


def plan(folder, tiny):
    arms = [make_arm("plain", tiny, {"alpha": 0.0, "beta": 0.0}, ()), make_arm("both", tiny, {}, ("alpha",))]
    return Plan(arms, folder, samples=2, seeds=(1,))


def trials(folder):
    """Every trial's numbers, by its id; what differs between runs (times, attempts, who trained) left out."""
    found = {}
    for path in sorted(Path(folder).glob("trials/*")):
        record = records.read_trial(path)
        lines = [json.dumps(line["train"] | line["diversity"]) for line in records.read_lines(path / "metrics.jsonl")]
        found[path.name] = record.status, record.test, record.validation, lines, (path / "predictions.parquet").read_bytes()
    return found


class Cut(Exception):
    """The machine goes away."""


def test_a_study_that_goes_on_elsewhere_equals_one_on_a_disk(tiny, place, stores, tmp_path):
    serial.run(plan(tmp_path / "disk", tiny), tmp_path / "disk", store=Store(tmp_path / "store"))
    expected = trials(tmp_path / "disk")
    assert len(expected) == 4
    for epochs in (3, 5, 6, 100):  # a new machine each time, which goes away after so many epochs
        left = iter(range(epochs))

        def progress(trial, line, left=left):
            if "ended" not in line and next(left, None) is None:
                raise Cut

        with working_copy(f"{place}/study", fetch=False) as copy:
            copy.pull_study(of_trials=("/trial.json",))
            one = plan(copy.local, tiny)
            try:
                serial.run(one, copy, store=stores(), progress=progress)
            except Cut:
                assert epochs < 100
    with working_copy(f"{place}/study") as copy:
        got = trials(copy.local)
        attempts = [records.read_trial(path).attempts for path in copy.local.glob("trials/*")]
    assert got == expected and max(attempts) > 1


def test_a_whole_study_by_its_command(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = study.Study(
        name="two", question="What do both give?", scientific="method", searched=(), baseline="plain",
        arms={"plain": {"alpha": 0.0, "beta": 0.0}, "both": {}},
    )  # fmt: skip
    small = [
        "epochs=3", "switch_epoch=1", "pretrain_epochs=1", "train_size=128", "validation_size=60", "test_size=60",
        "validation_samples=1", "test_samples=2", "width=0.25", "ood=none",
    ]  # fmt: skip
    flags = ["--preset", "demo", "--seeds", "2", "--in-process", *itertools.chain(*(["--set", one] for one in small))]
    assert one.main(build, [*flags, "--out", f"{place}/two"]) == 0
    out, err = capsys.readouterr()
    assert f"In {place}/two: table.md" in out and f"(from {place}/trunks)" in err
    there = Remote(f"{place}/two")
    assert {"study.json", "assignments.jsonl", "table.md", "report.html", "answer.md", "optuna.journal"} <= set(
        there.files(deep=False)
    )
    assert Remote(f"{place}/trunks").files("entries") and not list(tmp_path.iterdir())
    assert one.main(build, [*flags, "--out", f"{place}/two"]) == 0
    assert "all trials are recorded, nothing to train" in capsys.readouterr().err
    assert one.main(build, [*flags, "--out", f"{place}/two", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "4 trials, 4 of them recorded already" in out and f"results in {place}/two" in out
    assert one.main(build, [*flags, "--seeds", "3", "--out", f"{place}/two"]) == 2
    assert f"{place}/two holds another configuration of this study" in capsys.readouterr().err
    analysed(there, tmp_path, monkeypatch)


def analysed(there, tmp_path, monkeypatch):
    """``python -m analysis`` on the study's URL: here, or there anew."""
    from analysis import __main__ as command

    before = there.read("table.md")
    monkeypatch.setattr("sys.argv", ["analysis", there.url, "--out", "here", "--format", "md"])
    assert command.main() == 0 and Path("here/table.md").read_bytes() == before
    there.remove("table.md")
    monkeypatch.setattr("sys.argv", ["analysis", there.url, "--format", "md"])
    assert command.main() == 0 and there.read("table.md") == before
    shutil.rmtree("here")


@pytest.mark.parametrize(
    ("flag", "url", "message"),
    [
        ("--out", "s3://another-bucket/x", "--out s3://another-bucket/x: cannot be written (When"),
        ("--store", "s3://another-bucket/x", "--store s3://another-bucket/x: cannot be written (When"),
        ("--out", "nothing://x", "--out nothing://x: no storage that pyarrow knows"),
    ],
)
def test_a_place_that_cannot_be_is_named_before_any_work(bucket, flag, url, message, tmp_path, capsys):
    one = study.Study("two", "?", "method", {"plain": {}}, (), "plain")
    assert one.main(build, ["--preset", "demo", "--out", str(tmp_path / "x"), flag, url]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.rglob("study.json"))


def test_an_object_tells_its_size_and_time(place):
    one = Remote(place)
    one.write("a", b"123")
    assert one.files()["a"] == Object(3, one.files()["a"].written) and one.files()["a"].written > 1.7e9
