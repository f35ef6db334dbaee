"""Folders on an S3 server: their files and working copies."""

import os

import pytest

from mldiv.storage import object_store
from mldiv.storage.object_store import Object, Remote, SyncedFolder, working_copy

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.mark.parametrize(
    ("place", "joined", "above", "own"),
    [
        ("s3://b/x/y", "s3://b/x/y/trials/t", "s3://b/x", "y"),
        ("s3://b/x/y/?region=r", "s3://b/x/y/trials/t?region=r", "s3://b/x?region=r", "y"),
        ("/a/b", "/a/b/trials/t", "/a", "b"),
    ],
)
def test_places(place, joined, above, own):
    assert object_store.join(place, "trials", "t") == joined
    assert object_store.parent(place) == above and object_store.name(place) == own


def test_files(place):
    remote = Remote(place)
    assert not remote.exists("a/b") and remote.files() == {} and remote.files("a") == {}
    with pytest.raises(FileNotFoundError):
        remote.read("a/b")
    remote.write("a/b", b"first")
    remote.write("a/b", b"second")
    remote.write("c", b"")
    assert remote.read("a/b") == b"second" and remote.exists("a/b") and not remote.exists("a")
    assert set(remote.files()) == {"a/b", "c"} and set(remote.files(deep=False)) == {"c"} and set(remote.files("a")) == {"b"}
    assert remote.files()["a/b"].size == 6
    remote.remove("a/b")
    remote.remove("a/b")
    assert set(remote.files()) == {"c"}
    remote.write("d/e/f", b"1")
    remote.remove_folder("d")
    remote.remove_folder("d")
    assert set(remote.files()) == {"c"}


def test_a_url_is_not_cut_silently(bucket):
    with pytest.raises(ValueError, match="run#1: what follows a # is no part of a URL's path: write %23"):
        Remote(f"{bucket}/run#1")
    assert Remote(f"{bucket}/run%231").path.endswith("/run#1")


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
    copy = SyncedFolder(tmp_path, there)
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
    monkeypatch.setattr(object_store, "RETRY_SECONDS", 0.01)
    for second, name in enumerate("abc"):
        (tmp_path / name).write_text(name)
        stamp(tmp_path / name, second)
    there = Recorder(refusals=2)
    with pytest.raises(OSError, match="slow down"):
        SyncedFolder(tmp_path, there).push()
    SyncedFolder(tmp_path, there).push(patience=10)
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


def test_what_is_not_sent_yet_is_not_fetched_over(tmp_path):
    """A study's end is written here, and then all that the analysis reads is fetched: the end must stay."""
    with working_copy(f"file://{tmp_path}/there", fetch=False) as copy:
        study, other = copy.local / "study.json", copy.local / "other"
        study.write_text("begun")
        other.write_text("begun")
        copy.push()
        study.write_text("ended, with what was chosen")
        copy.remote.write("other", b"from elsewhere")
        copy.pull()
        assert study.read_text() == "ended, with what was chosen" and other.read_text() == "from elsewhere"
        copy.push()
        assert copy.remote.read("study.json") == b"ended, with what was chosen"


def test_a_folder_is_its_own_working_copy(tmp_path):
    with working_copy(str(tmp_path)) as copy:
        (copy.local / "a").write_text("1")
        copy.pull()
        copy.push()
    assert (tmp_path / "a").exists() and copy.place == str(tmp_path)


def test_an_object_tells_its_size_and_time(place):
    remote = Remote(place)
    remote.write("a", b"123")
    assert remote.files()["a"] == Object(3, remote.files()["a"].written) and remote.files()["a"].written > 1.7e9
