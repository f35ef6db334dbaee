"""Make one attempt at a trial, with Ray or without: open its folder and store, send every epoch, record an error."""

import contextlib
import time
import traceback

from mldiv import distributed
from mldiv.config import ConfigError, from_dict
from mldiv.datasets.files import DataError
from mldiv.plugins.loading import PluginError
from mldiv.records import study_files
from mldiv.records.contents import TrialRecord, TrialTask
from mldiv.storage.object_store import SyncedFolder, working_copy
from mldiv.storage.remote_cache import open_store
from mldiv.training.fit import alone, fitting
from mldiv.training.lanes.asked import Training
from mldiv.training.resume import Line, Report
from mldiv.training.worker_cache import Workspace

#: Seconds for which a finished trial's record is pushed again to an object store that refuses it.
PATIENCE_SECONDS = 600.0

#: Errors that stay while nobody mends their cause, and that no other rank's death brings about.
HOPELESS = (ConfigError, DataError, ImportError, PluginError, SyntaxError)


def attempt(task: TrialTask, *, workspace: Workspace, report: Report, grace_seconds: float = 0.0) -> TrialRecord:
    """Train a trial, or what is left of it, in its folder; return its record.

    Called by every rank of a group alike. Every epoch is sent before ``report`` hears of it; an epoch that could not be
    sent goes with the next. A store of the trial's own is removed when the trial ends.

    Nothing that befalls the trial alone is raised: after any Exception (settings or data that cannot be, a full disk, an object
    store that has refused the end for PATIENCE_SECONDS) the record returned says "failed" and why, with the traceback, and so
    does trial.json where it can be written, by rank 0. In a group of several a rank also fails because another one has died,
    which is no failure of the trial: for so many seconds nothing is written, in which this process may be ended for that; not
    where the error is HOPELESS. A rank that gets such a record may have left the others waiting in a collective: the group is
    to be started anew. KeyboardInterrupt, StudyOver and other BaseExceptions pass.
    """
    return alone(attempting(task, workspace=workspace, report=report, grace_seconds=grace_seconds))


def attempting(task: TrialTask, *, workspace: Workspace, report: Report, grace_seconds: float = 0.0) -> Training:
    """Do what `attempt` does, but leave every epoch to whoever asks, as `fit.fitting`."""
    folder: SyncedFolder | None = None
    with contextlib.ExitStack() as held:
        try:
            folder = held.enter_context(working_copy(task.folder, fetch=distributed.rank() == 0))
            store = open_store(task.store or folder.local / "store", task.store_limit)
            record = yield from fitting(
                from_dict(task.config), folder.local, store=store, workspace=workspace, publish=task.publish,
                report=_sending(folder, report),
            )  # fmt: skip
            if distributed.rank() == 0:
                _remove_own_store(folder, task)
                folder.push(patience=PATIENCE_SECONDS)
            return record
        except Exception as error:
            if distributed.size() > 1 and not isinstance(error, HOPELESS):
                time.sleep(grace_seconds)
            return _fail(folder, task, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


def _sending(folder: SyncedFolder, report: Report) -> Report:
    """Make a ``report`` that first sends what has been written."""

    def send_first(line: Line) -> bool:
        with contextlib.suppress(OSError):
            folder.push()
        return report(line)

    return send_first


def _fail(folder: SyncedFolder | None, task: TrialTask, reason: str) -> TrialRecord:
    """Return the record of a failed trial, written and sent where that is possible (by rank 0 alone)."""
    if folder is None or distributed.rank() > 0:
        return TrialRecord(task.trial, task.config, status="failed", reason=reason)
    _remove_own_store(folder, task)
    record = study_files.failed_trial(folder.local, task, reason)
    with contextlib.suppress(OSError):
        study_files.write_trial(folder.local, record)
        folder.push()
    return record


def _remove_own_store(folder: SyncedFolder, task: TrialTask) -> None:
    if task.store is None:
        with contextlib.suppress(OSError):  # left over, and no reason to lose the trial
            folder.remove("store")
