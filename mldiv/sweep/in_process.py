"""A plan trained in this process, one trial after the other: no Ray, the same records."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mldiv import records
from mldiv.config import ConfigError
from mldiv.datasets.splits import DataError
from mldiv.records import TrialRecord
from mldiv.storage.cache import Store
from mldiv.storage.object_store import Copy, join, working_copy
from mldiv.sweep.plan import Plan
from mldiv.sweep.queue import Task
from mldiv.training.fit import fit, summary
from mldiv.training.worker_cache import Workspace

Progress = Callable[[str, dict[str, Any]], None]


def run(
    plan: Plan,
    study: Path | Copy,
    *,
    store: Store,
    progress: Progress = lambda trial, result: None,
    deadline: Callable[[], bool] = lambda: False,
) -> None:
    """Train every trial of ``plan`` on the GPU, or on the processor where there is none; returns when all have ended.

    study: its folder, or the copy here of one on an object store; deadline: asked before every trial; a true answer ends the
    run, and the same call goes on later.

    Raises: ConfigError, DataError and OSError of a trial; any other error ends that trial as "failed", with its traceback.
    """
    study = study if isinstance(study, Copy) else Copy(Path(study))
    torch.set_num_threads(1)  # as a worker group has it: the same records, to the last bit
    workspace = Workspace(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    while not deadline() and (task := plan.next()) is not None:
        record = _train(task, plan, study, store, workspace, progress)
        plan.tell(task.config.id, record)
        progress(task.config.id, {"ended": True, "status": record.status, **_last(record)})


def _train(task: Task, plan: Plan, study: Copy, store: Store, workspace: Workspace, progress: Progress) -> TrialRecord:
    trial = task.config.id
    with working_copy(join(study.place, "trials", trial)) as copy:
        record = _fit(task, plan, copy, store, workspace, progress)
        if not plan.queue.share:
            with suppress(OSError):  # left over, and no reason to lose the trial
                copy.remove("store")
        copy.push()
    study.pull(lambda name: name.endswith("/trial.json"), f"trials/{trial}", deep=False)
    return record


def _fit(task: Task, plan: Plan, copy: Copy, store: Store, workspace: Workspace, progress: Progress) -> TrialRecord:
    trial = task.config.id

    def report(line: dict[str, Any]) -> bool:
        copy.push()
        plan.progress(trial, line["epoch"] + 1)
        progress(trial, summary(line) | {"status": "running"})
        return False

    kept = store if plan.queue.share else Store(copy.local / "store", store.limit)
    try:
        return fit(task.config, copy.local, store=kept, workspace=workspace, publish=task.publish, report=report)
    except (ConfigError, DataError, OSError):
        raise
    except Exception as error:
        try:
            found = records.read_trial(copy.local)
        except records.RecordError:
            found = TrialRecord(trial, asdict(task.config))
        found.status, found.reason = "failed", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        records.write_trial(copy.local, found)
        return found


def _last(record: TrialRecord) -> dict[str, Any]:
    scores = record.validation.get("pair", {})
    return {
        "epoch": record.epochs - 1,
        "reason": record.reason,
        **{name: scores.get(name) for name in ("accuracy", "nll", "ece")},
    }
