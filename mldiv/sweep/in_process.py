"""A plan trained in this process, one trial after the other or several in one step: no Ray, the same records."""

from contextlib import suppress
from pathlib import Path

import torch

from mldiv.records import study_files
from mldiv.records.contents import TrialRecord
from mldiv.storage.cache import Store
from mldiv.storage.object_store import SyncedFolder
from mldiv.sweep.plan import Plan, Progress, pull_record
from mldiv.training.attempt import attempting
from mldiv.training.fit import alone, summary
from mldiv.training.lanes.asked import Training
from mldiv.training.lanes.run import count_lanes, train_lanes
from mldiv.training.resume import Line, Report
from mldiv.training.worker_cache import Workspace


def run(
    plan: Plan,
    study: Path | SyncedFolder,
    *,
    store: Store,
    progress: Progress = lambda trial, result: None,
    lanes: int | None = 1,
) -> None:
    """Train every trial of ``plan`` on the GPU, or on the processor where there is none; returns when all have ended.

    A trial that fails leaves its record, as `attempt` says, and the others go on.

    study: its folder, or the copy here of one on an object store; lanes: trials at most that are stepped at once;
    None: as many as suit the device (`count_lanes`).
    """
    study = study if isinstance(study, SyncedFolder) else SyncedFolder(Path(study).resolve())
    torch.set_num_threads(1)  # as a worker group has it: the same records, to the last bit
    device = "cuda" if torch.cuda.is_available() else "cpu"
    workspace = Workspace(torch.device(device), count_lanes(lanes, device))

    def ask() -> tuple[str, Training] | None:
        if (task := plan.ask()) is None:
            return None
        trial = task.config.id
        study_files.write_assignments(study.local, plan.assignments)  # what ends can be analysed, whatever comes
        with suppress(OSError):
            store.refer(study.place, plan.queue.needed())
            study.push(folders=False)
        report = _report(plan, trial, progress)
        return trial, attempting(plan.travelling(task, study, store), workspace=workspace, report=report)

    def end(trial: str, record: TrialRecord) -> None:
        found = pull_record(study, trial)
        plan.tell(trial, record if record.status == "failed" else found)
        known = {"ended": True, "status": record.status, "reason": record.reason, "epoch": record.epochs - 1}
        scores = record.validation.get("pair", {})
        progress(trial, known | {name: scores.get(name) for name in ("accuracy", "nll", "ece")})

    if workspace.lanes > 1:
        train_lanes(ask, end, workspace.lanes)
        return
    while (given := ask()) is not None:
        trial, training = given
        end(trial, alone(training))


def _report(plan: Plan, trial: str, progress: Progress) -> Report:
    """Tells the plan and whoever watches of an epoch."""

    def report(line: Line) -> bool:
        plan.progress(trial, line["epoch"] + 1)
        progress(trial, summary(line) | {"status": "running"})
        return False

    return report
