"""Ray Train around `attempt`: standing DDP worker groups that train whatever trial they are handed, one after the other."""

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from textwrap import shorten
from typing import Any

import ray
import ray.train
import torch
from ray.autoscaler.sdk import request_resources
from ray.train.torch import TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mldiv import distributed
from mldiv.cluster.broker import END, NAMESPACE, Broker, Outcome, places
from mldiv.cluster.nodes import REASON_LETTERS, Resources, nodes
from mldiv.cluster.process_group import ProcessGroup
from mldiv.cluster.ray_private import LeanCallbacks, found_no_place
from mldiv.plugins import loading
from mldiv.plugins.loading import Plugin
from mldiv.records.contents import TrialRecord, TrialTask
from mldiv.storage.object_store import Location
from mldiv.training.attempt import HOPELESS, attempt, attempting
from mldiv.training.fit import summary
from mldiv.training.lanes.asked import Training
from mldiv.training.lanes.run import train_lanes
from mldiv.training.resume import Report, StudyOver
from mldiv.training.worker_cache import Workspace

#: How long a call for work or news waits at the broker before it comes back empty-handed. Short against the process group's
#: timeout: ranks other than 0 wait in a collective meanwhile.
WAIT_SECONDS = 5.0
#: Seconds in which Ray Train notices that a rank has died and ends the others.
GRACE_SECONDS = 20.0
#: How long a worker group may take to start. Ray's 60 are too few on a busy machine, where it then retries in silence.
START_TIMEOUT_SECONDS = 600
#: Restarts of a group after deaths of its workers, over its whole life.
RESTARTS = 100

#: Seconds in which groups that are told to end do so.
END_SECONDS = 60.0
#: How long between two looks at whether more or fewer groups are wanted.
ADAPT_SECONDS = 2.0
#: Groups that may fail for good before no more are started.
MOST_FAILURES = 3

#: Ray Train's settings by environment variable; what the user has set wins.
ENVIRONMENT = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(START_TIMEOUT_SECONDS),
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}

#: The same for a cluster that is this machine alone: nobody takes its node away.
LOCAL_ENVIRONMENT = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


def start_broker(name: str) -> Any:
    """Start the study's broker as a named Ray actor.

    It lives and dies with the driver, on whose node it is: other nodes may be lost.
    """
    actor: Any = ray.remote(Broker)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    placed = actor.options(name=name, namespace=NAMESPACE, num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)
    return placed.remote()


class Groups:
    """Standing worker groups, each a TorchTrainer in a thread of the driver: when the driver ends, so do they.

    Their number follows the cluster and the work: as many as fit, at most ``most`` and as there are trials left. With
    ``most``, the cluster is asked to make room for so many (an autoscaler starts nodes), and groups start as nodes come;
    groups that no trial needs any more end, so that their nodes can go.

    lanes: how many trials at most each group steps at once; tell: hears now and then how many groups have asked for work, and
    how many stand or are starting.
    """

    def __init__(
        self, broker: Any, broker_name: str, resources: Resources, storage: Location, *, trials_left: Callable[[], int],
        most: int | None = None, lanes: int = 1,
        tell: Callable[[int, int], None] = lambda ready, standing: None,
    ) -> None:  # fmt: skip
        self.broker, self.broker_name, self.resources, self.storage = broker, broker_name, resources, storage
        self.trials_left, self.most, self.lanes, self.tell = trials_left, most, lanes, tell
        self.failures: list[str] = []
        self.threads: list[threading.Thread] = []
        self.closed = threading.Event()
        #: Whether all groups ended in time, once they were told to.
        self.ended = False
        for name, value in (ENVIRONMENT | (LOCAL_ENVIRONMENT if len(ray.nodes()) == 1 and most is None else {})).items():
            os.environ.setdefault(name, value)
        if most is None:
            resources.groups(nodes(), trials_left())  # raises when nothing fits, and nothing is to come
        self._adapt()
        self.keeper = threading.Thread(target=self._keep, daemon=True)
        self.keeper.start()

    @property
    def count(self) -> int:
        """Groups that stand or are starting."""
        return sum(thread.is_alive() for thread in self.threads)

    def _keep(self) -> None:
        """Adapt the number of groups every now and then, until the study is over; end it when none is left or to come."""
        while not self.closed.wait(ADAPT_SECONDS):
            with suppress(ray.exceptions.RayError, ConnectionError):
                self._adapt()
                if not self.count and len(self.failures) >= MOST_FAILURES:
                    ray.get(self.broker.close.remote(f"every worker group failed; the last one: {self.failures[-1]}"))
                state: Any = ray.get(self.broker.state.remote())
                self.tell(len(state["pids"]), self.count)

    def _adapt(self) -> None:
        wanted = min(self.trials_left(), self.most or sys.maxsize)
        if self.most is not None:
            request_resources(bundles=[self.resources.worker] * self.resources.workers * wanted)
        present, fits = self.count, self.resources.fit(nodes())
        told = self.broker.retire.remote(max(0, present - wanted))
        if self.threads:
            ray.get(told)  # raises when the broker has died: no more groups then
        for _ in range(present, min(wanted, fits)):
            if len(self.failures) < MOST_FAILURES:
                thread = threading.Thread(target=self._serve, args=(len(self.threads),), daemon=True)
                self.threads.append(thread)
                thread.start()

    def _serve(self, index: int) -> None:
        group = f"group-{index}"
        try:
            settings = {"broker": self.broker_name, "group": group, "threads": self.resources.threads, "lanes": self.lanes}
            self._run_trainer(settings | {"plugins": [asdict(plugin) for plugin in loading.loaded()]})
            if (reason := ray.get(self.broker.given_up.remote(group))) is not None:
                raise RuntimeError(reason)
        except Exception as error:
            if found_no_place(error):  # in a busy cluster
                print(f"{group} has found no place in the cluster yet; another waits in its stead", file=sys.stderr)
            else:
                self.failures.append(shorten(str(error), REASON_LETTERS))
            self._tell_lost(group)

    def _run_trainer(self, settings: dict[str, Any]) -> None:
        """Run `worker_loop` in the processes of a TorchTrainer, restarted as they die, until it ends."""
        failures = ray.train.FailureConfig(max_failures=RESTARTS, controller_failure_limit=3)  # type: ignore[call-arg]
        _Trainer(
            worker_loop,
            train_loop_config=settings,
            torch_config=ProcessGroup(timeout_s=24 * 3600),  # type: ignore[arg-type]
            scaling_config=ray.train.ScalingConfig(
                num_workers=self.resources.workers, use_gpu=self.resources.gpus > 0, resources_per_worker=self.resources.worker
            ),
            run_config=ray.train.RunConfig(
                name=f"{settings['group']}-{uuid.uuid4().hex[:8]}",
                storage_path=self.storage,
                failure_config=failures,
            ),
        ).fit()

    def _tell_lost(self, group: str) -> None:
        """Give the group's trial and place to the others."""
        with suppress(Exception):  # the cluster itself is going down: the driver sees that in its own calls
            placement = ray.get(self.broker.lost.remote(group))
            if placement is not None:
                ray.util.remove_placement_group(placement)  # a controller that was killed has not done so

    def close(self, wait: bool = True) -> None:
        """Tell all groups to end and wait for them (see `ended`), or leave them to end with the driver."""
        self.closed.set()
        self.keeper.join(END_SECONDS if wait else 1.0)
        if self.most is not None:
            request_resources(bundles=[])
        if not wait:
            return
        with suppress(ray.exceptions.RayActorError):  # then its groups end by themselves
            ray.get(self.broker.close.remote("the study is over"))
        deadline = time.monotonic() + END_SECONDS
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.ended = not any(thread.is_alive() for thread in self.threads)


class _Trainer(LeanCallbacks, TorchTrainer):
    """Ray's, with the callbacks that a group needs alone."""


def worker_loop(settings: dict[str, Any]) -> None:
    """Train the trials that the group is handed until told END; what each of its worker processes runs.

    An error outside of a trial is told to the broker, and raised where starting anew may help.
    """
    broker, group = ray.get_actor(settings["broker"], namespace=NAMESPACE), settings["group"]
    with suppress(ray.exceptions.RayActorError):  # a broker that has died is noticed with the next task
        if ray.get(broker.over.remote(group, distributed.rank())):
            return
    try:
        _train_all(broker, settings)
    except (Exception, SystemExit) as error:
        told = group, distributed.rank(), f"{type(error).__name__}: {error}", isinstance(error, HOPELESS)
        if ray.get(broker.died.remote(*told)) or distributed.size() > 1:  # the others may wait in a collective
            raise


def _train_all(broker: Any, settings: dict[str, Any]) -> None:
    """Load the study's plug-ins, then train one trial after the other, or several in one step."""
    loading.load(Plugin(**plugin) for plugin in settings["plugins"])
    torch.set_num_threads(settings["threads"])
    workspace, group = Workspace(get_device(), settings["lanes"]), settings["group"]
    with suppress(ray.exceptions.RayActorError):  # a broker that has died is noticed with the next task
        left: Any = ray.get(broker.placed.remote(group, ray.util.get_current_placement_group()))
        if left is not None:
            ray.util.remove_placement_group(left)
    if workspace.lanes > 1:
        for place in _held(broker, group):  # alone: one of them may be what has ended the group
            _train_next(broker, place, workspace)
        while _train_side_by_side(broker, group, workspace):
            pass
    else:
        while _train_next(broker, group, workspace):
            pass


def _train_next(broker: Any, place: str, workspace: Workspace) -> bool:
    """Train the next trial, if there is one by now; return whether to go on."""
    task = distributed.from_first(_next_task(broker, place) if distributed.rank() == 0 else None)
    if isinstance(task, TrialTask):
        _train(broker, place, task, workspace)
    return task != END


def _train_side_by_side(broker: Any, group: str, workspace: Workspace) -> bool:
    """Train trials in lanes, each in a place of the group, until none is left for now; return whether to go on."""
    held, over = _held(broker, group), False
    free = sorted(places(group, workspace.lanes), key=lambda place: place in held)  # from the end: what was left goes on first

    def ask() -> tuple[tuple[str, str], Training] | None:
        nonlocal over
        task = None if over else _next_task(broker, free[-1], 0.0 if len(free) < workspace.lanes else WAIT_SECONDS)
        over = over or task == END
        if not isinstance(task, TrialTask):
            return None
        training = attempting(task, workspace=workspace, report=_report(broker, task.trial))
        return (free.pop(), task.trial), training

    def end(name: tuple[str, str], record: TrialRecord) -> None:
        free.append(name[0])
        _tell_end(broker, *name, record)

    with suppress(StudyOver):
        train_lanes(ask, end, workspace.lanes)
    return not over


def _held(broker: Any, group: str) -> list[str]:
    """Return the group's places that hold a trial; a broker that has died is noticed with the next task."""
    with suppress(ray.exceptions.RayActorError):
        return ray.get(broker.held.remote(group))
    return []


def _next_task(broker: Any, place: str, timeout: float = WAIT_SECONDS) -> TrialTask | str | None:
    try:
        return ray.get(broker.next.remote(place, os.getpid(), timeout))
    except ray.exceptions.ActorUnavailableError:
        time.sleep(1.0)
        return None
    except ray.exceptions.RayActorError:  # the broker lives as long as its driver
        return END


def _report(broker: Any, trial: str) -> Report:
    """Make a report that tells the broker of an epoch, and hears whether the trial is to end, or to be left as it is."""

    def report(line: dict[str, Any]) -> bool:
        try:
            answer: Any = ray.get(broker.report.remote(trial, summary(line)))
        except ray.exceptions.RayActorError as error:
            raise StudyOver from error
        if answer is None:
            raise StudyOver
        return answer

    return report


def _tell_end(broker: Any, place: str, trial: str, record: TrialRecord) -> None:
    """Tell the broker how a trial ended; its death is noticed with the next task, and one that is back hands it out again."""
    with suppress(ray.exceptions.RayActorError):
        ray.get(broker.finish.remote(place, trial, Outcome(record.status, record.reason)))


def _train(broker: Any, place: str, task: TrialTask, workspace: Workspace) -> None:
    """Attempt the trial and tell the broker how it ended; without the broker, leave it to a later run.

    Where another rank has died, Ray Train ends this process within the grace, and the group starts anew with the same trial.

    Raises: RuntimeError in a group of several when this rank itself failed: the others wait in a collective.
    """
    try:
        record = attempt(task, workspace=workspace, report=_report(broker, task.trial), grace_seconds=GRACE_SECONDS)
    except StudyOver:
        return
    failed = record.status == "failed"
    if failed or distributed.rank() == 0:
        _tell_end(broker, place, task.trial, record)
    if failed and distributed.size() > 1:
        raise RuntimeError(record.reason)
