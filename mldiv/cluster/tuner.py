"""Ray Tune with Optuna: a plan's trials as thin clients of the standing worker groups, early stops included."""

import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.callback import Callback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from mldiv.cluster.nodes import Resources
from mldiv.cluster.ray_private import keep_keys
from mldiv.cluster.trial_client import EMPTY, client
from mldiv.cluster.worker_groups import END_SECONDS, Groups, start_broker
from mldiv.records import study_files
from mldiv.records.contents import TrialRecord, TrialTask
from mldiv.storage.cache import Store
from mldiv.storage.object_store import Location, SyncedFolder, join
from mldiv.storage.remote_cache import open_store
from mldiv.sweep.plan import Plan, Progress, pull_record
from mldiv.training.lanes.run import count_lanes

#: Tune's settings by environment variable; what the user has set wins.
ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us: records and checkpoints are already safe
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no csv, json and tensorboard copies of our records
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "TUNE_GLOBAL_CHECKPOINT_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
}

#: Restarts of a trial's client, which dies with the node that it happens to be on.
CLIENT_RESTARTS = 20
#: How often a trial that ended in an error of Tune's, without a final record, is brought again as a new one. Tune restarts no
#: client whose process died between two trials: the next trial is the one that ends.
RETURNS = 5

#: How long between two pushes of the study's own files to an object store.
PUSH_SECONDS = 30.0
#: How long between two looks for the ends of trials that Tune has stopped.
LOOK_SECONDS = 0.5


class PlanSearch(Searcher):
    """A `Plan` as a Tune search algorithm: Tune asks it for trials and tells it of their ends.

    under_way: whether a trial that Tune has stopped still trains; how it ended, its record says then: it may have reached its
    last epoch, and a later run reads nothing else.
    """

    def __init__(
        self, plan: Plan, study: SyncedFolder, store: Store, most_open: Callable[[], int],
        under_way: Callable[[str], bool] = lambda trial: False,
    ) -> None:  # fmt: skip
        super().__init__(metric="nll", mode="min")
        self.plan, self.study, self.store, self.most_open, self.under_way = plan, study, store, most_open, under_way
        self.stopped: list[str] = []
        self.looked = 0.0
        #: Why no trial can be trained any more, once that is so.
        self.given_up: str | None = None
        self.tasks: dict[str, TrialTask] = {}
        self.again: dict[str, TrialTask] = {}
        self.returns: Counter[str] = Counter()
        self.written: tuple[int, frozenset[str]] = (0, frozenset())
        self.pushed = time.monotonic()

    def suggest(self, trial_id: str) -> Any:
        """Return a task; None while answers or a first stage must come first, or no group is free; FINISHED at the end."""
        if self.given_up is not None:
            return Searcher.FINISHED
        self._hear_ends()
        task = self._next() if len(self.tasks) < self.most_open() else None
        self._write()
        if task is not None:
            self.tasks[trial_id] = task
            return asdict(task)
        return Searcher.FINISHED if self.plan.done else None

    def _next(self) -> TrialTask | None:
        if self.again:
            return self.again.pop(next(iter(self.again)))
        task = self.plan.ask()
        return self.plan.travelling(task, self.study, self.store) if task is not None else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Answer with the record on disk, of a trial that Tune stopped once it has ended. One that lost its client is brought
        again."""
        task = self.tasks.pop(trial_id, None)
        if task is None:
            return
        last = EMPTY | (result or {})
        if last["status"] == "interrupted":
            self.given_up = last["reason"]
            return
        record = pull_record(self.study, task.trial)
        final = record is not None and record.final
        if error and not final and self.returns[task.trial] < RETURNS:
            self.returns[task.trial] += 1
            self.again[task.trial] = task
            return
        if last["status"] == "failed" and (record is None or record.status != "failed"):  # it could not be written
            record = TrialRecord(task.trial, task.config, status="failed", reason=last["reason"])
        elif not final and not error and result and last["status"] == "running":
            self.stopped.append(task.trial)
            return
        self.plan.tell(task.trial, record)
        self._write()

    def _hear_ends(self) -> None:
        """Answer with the records of trials that Tune has stopped and that have ended since; of one left in line it is so."""
        if not self.stopped or time.monotonic() - self.looked < LOOK_SECONDS:
            return
        self.looked = time.monotonic()
        for trial in [trial for trial in self.stopped if not self.under_way(trial)]:
            self.stopped.remove(trial)
            if (record := pull_record(self.study, trial)) is not None and record.status == "running":
                record.status = "stopped"
            self.plan.tell(trial, record)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        """Do nothing: the plan fixes what is searched and how it is judged."""
        return True

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the plan: who waits for the trial's first stage may be free now. Optuna hears of whole trials only."""
        if trial_id in self.tasks:
            self.plan.progress(self.tasks[trial_id].trial, result["epoch"] + 1)

    def _write(self) -> None:
        """Keep the study's assignments and its references in the store up to date."""
        assigned, needed = len(self.plan.assignments), self.plan.queue.needed()
        if assigned != self.written[0]:
            study_files.write_assignments(self.study.local, self.plan.assignments)
        with suppress(OSError):
            if needed != self.written[1]:
                self.store.refer(self.study.place, needed)
            if time.monotonic() - self.pushed > PUSH_SECONDS:
                self.pushed = time.monotonic()
                self.study.push(folders=False)
        self.written = assigned, needed

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its parts to restore them later; the records rebuild this one."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the records rebuild the plan."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the records rebuild the plan."""


class BrokerCallback(Callback):
    """Tells the broker of trials that Tune ends early, and a display of everything that is reported."""

    def __init__(self, broker: Any, search: PlanSearch, progress: Progress) -> None:
        self.broker, self.search, self.progress = broker, search, progress

    def __getstate__(self) -> dict[str, Any]:  # as above
        return {}

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """Show an epoch."""
        self.progress(_id(trial), result)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Tell the broker, which then ends a trial that still trains, and show the end."""
        self.broker.stop.remote(_id(trial))
        self.progress(_id(trial), {"ended": True, **trial.last_result})

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Do the same for a trial whose client is gone, unless it is brought again."""
        if _id(trial) in self.search.again:
            return
        self.broker.stop.remote(_id(trial))
        self.progress(_id(trial), {"ended": True, "status": "failed"})


def _id(trial: Any) -> str:
    return TrialTask.read(trial.config).trial


def run(
    plan: Plan,
    study: Path | SyncedFolder,
    *,
    resources: Resources,
    store: Store | None = None,
    groups: int | None = None,
    lanes: int | None = 1,
    progress: Progress = lambda trial, result: None,
    scheduler: TrialScheduler | None = None,
    tell: Callable[[int, int], None] = lambda ready, standing: None,
    abandon: Callable[[], bool] = lambda: False,
) -> None:
    """Train every trial of ``plan`` as `in_process.run` does, by worker groups; Ray must be initialised.

    store: where trials share their first stages (default: in the study's folder); groups: most of them side by side (default:
    what the cluster has, and gets meanwhile); lanes: of each; scheduler: Tune's, which may stop trials early; tell: hears how
    many groups are ready, and how many stand; abandon: whether at a Ctrl-C no group's end is waited for, since this process
    ends, and with it they.

    A group that does not end in time, once every trial is recorded, is said on stderr.

    Raises: RuntimeError with the reason when no worker group is left, the broker has died, or such a group leaves trials open.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    keep_keys()
    study = study if isinstance(study, SyncedFolder) else SyncedFolder(Path(study).resolve())
    store = store or open_store(join(study.place, "store"))
    mirror = join(study.place, "ray")
    study.remove("ray")
    each = count_lanes(lanes, "cuda" if resources.gpus else "cpu")
    with _groups(plan, resources, mirror, groups, each, tell, abandon) as standing:

        def under_way(trial: str) -> bool:
            with suppress(ray.exceptions.RayActorError):
                return ray.get(standing.broker.under_way.remote(trial))
            return False

        search = PlanSearch(plan, study, store, lambda: standing.count * each + 1, under_way)  # none waits for a client
        _tuner(search, standing.broker, mirror, progress, scheduler).fit()
    if search.given_up is not None:
        raise RuntimeError(search.given_up)
    if not standing.ended:
        late = f"a worker group did not end within {END_SECONDS:g} s after the study"
        if not plan.done:
            raise RuntimeError(late)
        print(f"{late}: it ends with this process (it may have waited for a place in the cluster)", file=sys.stderr)


@contextmanager
def _groups(
    plan: Plan, resources: Resources, storage: Location, most: int | None, lanes: int, tell: Callable[[int, int], None],
    abandon: Callable[[], bool],
) -> Iterator[Groups]:  # fmt: skip
    """Start a broker and standing worker groups, which end with the context."""
    name = f"broker-{uuid.uuid4().hex[:8]}"
    broker = start_broker(name)
    standing = Groups(
        broker, name, resources, storage, trials_left=lambda: plan.trials() - plan.answered, most=most, lanes=lanes, tell=tell
    )
    try:
        yield standing
    finally:
        with suppress(ray.exceptions.RayError):
            standing.close(wait=not abandon())
            ray.kill(broker)


def _tuner(
    search: PlanSearch, broker: Any, storage: Location, progress: Progress, scheduler: TrialScheduler | None
) -> tune.Tuner:
    """Make a Tuner with a client for each of the search's trials."""
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(client, broker=broker), {"CPU": 0.01}),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=-1,  # the search says when it is over
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.trial_id}-{_id(trial)}",
            metric="nll" if scheduler else None,
            mode="min" if scheduler else None,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=storage,
            verbose=0,
            callbacks=[BrokerCallback(broker, search, progress)],
            failure_config=tune.FailureConfig(max_failures=CLIENT_RESTARTS),
        ),
    )
