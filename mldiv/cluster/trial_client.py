"""A Tune trial: hand the configuration to a free worker group and pass its reports on. Imports no torch: it is many."""

from contextlib import suppress
from typing import Any

import ray
from ray import tune

from mldiv.cluster.broker import Outcome
from mldiv.records import study_files
from mldiv.records.contents import TrialTask
from mldiv.storage.object_store import working_copy

#: How long a poll waits at the broker for news.
POLL_SECONDS = 5.0

#: Why a study ends whose broker is no more.
LOST = (
    "the broker, the process between trials and worker groups, has died (out of memory?); run the same command again: trials "
    "go on from their last epoch"
)

#: What a trial reports to Tune: the same fields from the first report to the last.
EMPTY: dict[str, Any] = {
    "epoch": -1, "stage": 1, "accuracy": None, "nll": None, "ece": None, "status": "running", "reason": None,
}  # fmt: skip


def client(settings: dict[str, Any], broker: Any) -> None:
    """Bring the trial to the broker, report its epochs to Tune, and last its status and the first line of its reason.

    settings: a `TrialTask` as a dictionary, which is what Tune takes.
    """
    task = TrialTask.read(settings)
    seen, outcome, last = 0, None, dict(EMPTY)
    try:
        ray.get(broker.submit.remote(task))
        while outcome is None:
            lines, outcome = ray.get(broker.poll.remote(task.trial, seen, POLL_SECONDS))
            for line in lines:
                last |= {name: line[name] for name in EMPTY if name in line}
                tune.report(dict(last))
            seen += len(lines)
    except ray.exceptions.ActorDiedError:
        outcome = Outcome("interrupted", LOST)
    reason = outcome.reason or ""
    if outcome.status == "failed":  # its worker group has died, or a rank that does not write records has failed
        with suppress(OSError), working_copy(task.folder) as copy:  # a full disk, say: the reason is told below all the same
            study_files.write_trial(copy.local, study_files.failed_trial(copy.local, task, reason))
            copy.push()
    tune.report(last | {"status": outcome.status, "reason": reason.partition("\n")[0] or None})
