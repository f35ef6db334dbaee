"""A Tune trial: hand the configuration to a free worker group and pass its reports on. Imports no torch: it is many."""

from contextlib import suppress
from typing import Any

import ray
from ray import tune

from mldiv import records
from mldiv.records import TrialRecord
from mldiv.storage.object_store import Place, join, working_copy

#: Seconds a poll waits at the broker for news.
POLL = 5.0

#: Why a study ends whose broker is no more.
LOST = (
    "the broker, the process between trials and worker groups, has died (out of memory?); run the same command again: trials "
    "go on from their last epoch"
)

#: What a trial reports to Tune: the same fields from the first report to the last.
EMPTY: dict[str, Any] = {
    "epoch": -1, "stage": 1, "accuracy": None, "nll": None, "ece": None, "status": "running", "reason": None,
}  # fmt: skip


def client(task: dict[str, Any], broker: Any, study: str) -> None:
    """Bring the trial to the broker, report its epochs to Tune, and last its status.

    task: {"trial": id, "config": settings, "publish": epochs, "store": place, or None for one of its own, "store_limit":
    bytes}; study: its place.
    """
    trial = task["trial"]
    place = join(study, "trials", trial)
    seen, outcome, last = 0, None, dict(EMPTY)
    try:
        ray.get(broker.submit.remote(trial, task | {"folder": place}))
        while outcome is None:
            lines, outcome = ray.get(broker.poll.remote(trial, seen, POLL))
            for line in lines:
                last |= {name: line[name] for name in EMPTY if name in line}
                tune.report(dict(last))
            seen += len(lines)
    except ray.exceptions.ActorDiedError:
        outcome = {"status": "interrupted", "reason": LOST}
    if outcome["status"] == "failed":
        with suppress(OSError):  # a full disk, say: the reason is told below all the same
            write_failure(place, task, outcome)
    tune.report(last | {"status": outcome["status"], "reason": outcome["reason"]})


def write_failure(place: Place, task: dict[str, Any], outcome: dict[str, Any]) -> None:
    """Mark the trial's record as failed, with the reason and the traceback."""
    with working_copy(place) as copy:
        try:
            record = records.read_trial(copy.local)
        except records.RecordError:
            record = TrialRecord(task["trial"], task["config"])
        record.status = "failed"
        record.reason = "\n".join(filter(None, (outcome["reason"], outcome.get("traceback"))))
        records.write_trial(copy.local, record)
        copy.push()
