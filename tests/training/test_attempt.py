"""One attempt at a trial: what is sent and when, what an error leaves, what passes."""

from dataclasses import asdict

import pytest
from helpers.first_stages import check_as_alone

from mldiv.config import ConfigError, from_dict
from mldiv.datasets.files import DataError
from mldiv.records import checked_files, study_files
from mldiv.records.contents import TrialTask
from mldiv.storage.object_store import SyncedFolder
from mldiv.training import attempt as module
from mldiv.training.attempt import attempt
from mldiv.training.fit import fitting
from mldiv.training.resume import StudyOver
from mldiv.training.worker_cache import Workspace


@pytest.fixture
def make_task(tiny, tmp_path):
    """A trial's task; by default it shares the store beside it."""

    def make(**changed):
        settings = {"folder": str(tmp_path / tiny.id), "store": str(tmp_path / "store"), "config": asdict(tiny)} | changed
        return TrialTask(trial=tiny.id, store_limit=10**9, **settings)

    return make


def go_on(line):
    return False


def full_disk(*given, **options):
    raise OSError(28, "No space left on device")


def test_a_trial_trains_as_alone(make_task, tiny, tmp_path, alone):
    record = attempt(make_task(), workspace=Workspace(), report=go_on)
    assert record == study_files.read_trial(tmp_path / tiny.id)
    check_as_alone(tiny, tmp_path / tiny.id, alone)
    assert list((tmp_path / "store" / "entries").rglob("*.pt"))


@pytest.mark.parametrize("fails", [False, True])
def test_a_store_of_its_own_is_gone_when_the_trial_ends(make_task, tiny, tmp_path, fails):
    seen = []

    def report(line):
        seen.append((tmp_path / tiny.id / "store").exists())
        if fails:
            full_disk()

    record = attempt(make_task(store=None), workspace=Workspace(), report=report)
    assert record.status == ("failed" if fails else "finished")
    assert seen[0]
    assert not (tmp_path / tiny.id / "store").exists()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"data": "cifar10", "data_root": "/proc/nowhere"}, "DataError: /proc/nowhere: no such folder"),
        ({"batch_size": 4096}, "ConfigError: batch_size = 4096 exceeds the 64 training images"),
        ({"no_such_setting": 1}, "ConfigError: no setting is called 'no_such_setting'"),
    ],
)
def test_settings_that_cannot_be_fail_the_trial(make_task, tiny, tmp_path, changed, reason):
    record = attempt(make_task(config=asdict(tiny) | changed), workspace=Workspace(), report=go_on)
    assert record.status == "failed"
    assert record.reason.startswith(reason)
    assert "Traceback" in record.reason
    assert study_files.read_trial(tmp_path / tiny.id) == record


def test_an_error_in_mid_trial_keeps_what_was_trained_and_the_next_attempt_goes_on(
    make_task, tiny, tmp_path, monkeypatch, alone
):
    def report(line):
        if line["epoch"] == 2:
            full_disk()

    record = attempt(make_task(), workspace=Workspace(), report=report)
    assert record.reason.startswith("OSError: [Errno 28] No space left on device\nTraceback")
    assert (record.status, record.attempts) == ("failed", 1)
    assert len(list(checked_files.read_lines(tmp_path / tiny.id / "metrics.jsonl"))) == 3
    again = attempt(make_task(), workspace=Workspace(), report=go_on)
    assert (again.status, again.reason, again.attempts) == ("finished", None, 2)
    check_as_alone(tiny, tmp_path / tiny.id, alone)


def test_where_nothing_can_be_written_the_record_is_returned(make_task, tmp_path, monkeypatch):
    monkeypatch.setattr(study_files, "write_atomically", full_disk)
    record = attempt(make_task(), workspace=Workspace(), report=go_on)
    assert record.status == "failed"
    assert "No space left on device" in record.reason
    assert not list(tmp_path.rglob("trial.json"))


def test_a_folder_that_cannot_be_opened_fails_the_trial(make_task):
    record = attempt(make_task(folder="nothing://x/trial"), workspace=Workspace(), report=go_on)
    assert record.status == "failed"
    assert record.reason.startswith("ValueError: nothing://x/trial: no storage that pyarrow knows")


@pytest.mark.parametrize("end", [StudyOver, KeyboardInterrupt])
def test_the_end_of_the_study_is_no_failure(make_task, tiny, tmp_path, end):
    def report(line):
        raise end

    with pytest.raises(end):
        attempt(make_task(store=None), workspace=Workspace(), report=report)
    assert study_files.read_trial(tmp_path / tiny.id).status == "running"
    assert (tmp_path / tiny.id / "store").exists()  # what it has pretrained is not lost


def test_only_rank_0_writes_a_failure(make_task, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fitting", full_disk)
    monkeypatch.setattr("mldiv.distributed.rank", lambda: 1)
    record = attempt(make_task(), workspace=Workspace(), report=go_on)
    assert record.status == "failed"
    assert "No space left on device" in record.reason
    assert not list(tmp_path.rglob("trial.json"))


@pytest.mark.parametrize(
    ("error", "waits"),
    [(RuntimeError("Connection closed by peer"), True), (OSError(5, "Input/output error"), True),
     (ConfigError("kernel = 'x' is unknown"), False), (DataError("no such folder"), False), (ImportError("no x"), False)],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_only_what_another_ranks_death_can_bring_about_waits_for_it(make_task, monkeypatch, error, waits):
    slept = []

    def fail(*given, **options):
        raise error

    monkeypatch.setattr(module, "fitting", fail)
    monkeypatch.setattr("mldiv.distributed.size", lambda: 2)
    monkeypatch.setattr(module.time, "sleep", slept.append)
    record = attempt(make_task(), workspace=Workspace(), report=go_on, grace_seconds=20.0)
    assert record.reason.startswith(f"{type(error).__name__}: {error}")
    assert slept == [20.0] * waits


# Pushes, to an object store


class Refusing:
    """Stands for `SyncedFolder.push`: counts what is pushed, and refuses what it is told to."""

    def __init__(self, refused):
        self.refused, self.push, self.pushed = refused, SyncedFolder.push, []

    def __call__(self, copy, folders=True, patience=0.0):
        self.pushed.append(patience)
        if self.refused(len(self.pushed), patience):
            raise OSError("the object store refuses it")
        self.push(copy, folders)


@pytest.fixture
def refuse(monkeypatch):
    def install(refused):
        refusing = Refusing(refused)
        monkeypatch.setattr(SyncedFolder, "push", lambda *given, **options: refusing(*given, **options))
        return refusing

    return install


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
class TestOnAnObjectStore:
    def test_an_epoch_that_could_not_be_sent_goes_with_the_next(self, make_task, tiny, place, tmp_path, refuse):
        refusing = refuse(lambda count, patience: count == 2)
        seen = []

        def report(line):
            with module.working_copy(place) as there:
                seen.append(len(list(checked_files.read_lines(there.local / "metrics.jsonl"))))

        record = attempt(make_task(folder=place), workspace=Workspace(), report=report)
        assert record.status == "finished"
        assert seen == [1, 1, 3, 4]
        assert refusing.pushed == [0.0] * 4 + [module.PATIENCE_SECONDS]

    def test_an_end_that_cannot_be_sent_fails_the_trial(self, make_task, tiny, place, refuse):
        refuse(lambda count, patience: patience > 0)
        record = attempt(make_task(folder=place), workspace=Workspace(), report=go_on)
        assert record.reason.startswith("OSError: the object store refuses it\nTraceback")
        with module.working_copy(place) as there:
            assert study_files.read_trial(there.local) == record
        refuse(lambda count, patience: False)
        again = attempt(make_task(folder=place), workspace=Workspace(), report=go_on)
        assert (again.status, again.cost["epochs_trained"] + again.cost["epochs_shared"]) == ("finished", 4)


def test_what_travels_is_what_was_sent(make_task, tiny, monkeypatch):
    """The first setting of a list that is dropped on the way would be trained with its default."""
    seen = []

    def watched(config, folder, **options):
        seen.append((config, folder, options["publish"], options["store"].limit))
        return fitting(config, folder, **options)

    monkeypatch.setattr(module, "fitting", watched)
    task = make_task(publish=[1, 2])
    attempt(TrialTask.read(asdict(task)), workspace=Workspace(), report=go_on)
    assert seen[0][0] == tiny == from_dict(task.config)
    assert (str(seen[0][1]), *seen[0][2:]) == (task.folder, [1, 2], 10**9)
