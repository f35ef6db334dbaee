"""Execute a study: train its plan, on Ray or here, show it, write its tables, end it whatever happens."""

import json
import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any, Protocol

from mldiv.cli.dry_run import environments, of_worker
from mldiv.cli.run import StudyRun
from mldiv.cli.screen import interrupt
from mldiv.cli.screen.display import Display
from mldiv.cli.screen.forecast import Forecast
from mldiv.cluster.nodes import Resources, connect, largest, nodes, worker_resources
from mldiv.config import TrialConfig
from mldiv.environment.checkout import use_analysis
from mldiv.environment.terminal import nearby, plain
from mldiv.plugins import loading
from mldiv.plugins.loading import Plugin
from mldiv.records import checked_files, study_files
from mldiv.records.contents import COSTS
from mldiv.records.study_files import find_trial
from mldiv.storage.cache import Store
from mldiv.storage.object_store import SyncedFolder, is_url
from mldiv.study import ReportBuilder
from mldiv.sweep import in_process
from mldiv.sweep.plan import Plan, Progress, journal
from mldiv.sweep.simulate import simulate
from mldiv.training import step_cost
from mldiv.training.step_cost import Cost

#: Seconds for which the finished study is pushed again to an object store that refuses it.
PATIENCE_SECONDS = 60.0
#: Seconds after which a study does without a forecast of its steps.
TIMING_SECONDS = 120.0


class Trainer(Protocol):
    """Trains every trial of a plan: `in_process.run`, or `tuner.run` with what it needs of a cluster."""

    def __call__(self, plan: Plan, study: SyncedFolder, *, store: Store, progress: Progress) -> None: ...


def execute(run: StudyRun, folder: SyncedFolder, report: ReportBuilder, display: Display) -> int:
    """Train everything that is not recorded yet and build the report; the exit code: 0 done, 1 failed, 130 interrupted.

    display: ends before the report.
    """
    trainer, trained, further = here if run.flags.in_process else on_ray, False, True
    while further:
        study_files.write_study(folder.local, run.header)
        folder.push(folders=False)
        plan = run.plan(folder.local, journal(folder.local / "optuna.journal"))
        try:
            if not plan.catch_up():
                trained = True
                display.follow(plan, forecast := make_forecast(run, folder, plan))
                with trainer(run, folder, plan, display, forecast) as train:
                    train(plan, folder, store=run.store, progress=display.update)
        except KeyboardInterrupt:
            return interrupted(run, folder, plan)
        except RuntimeError as error:
            run.say(str(error))
            if os.environ.get("MLDIV_DEBUG"):
                traceback.print_exc()
            return 1
        note_outcome(run, folder, plan)
        further = (seeds := next_look(run, folder, plan)) is not None
        run = run.at_look(seeds) if seeds is not None else run
    if not trained:
        run.say("all trials are recorded, nothing to train")
    display.report()
    return finish(run, folder, plan, report, display)


def note_outcome(run: StudyRun, folder: SyncedFolder, plan: Plan) -> None:
    """Write what a plan that has ended assigned and chose, and fetch all that the analysis reads."""
    study_files.write_assignments(folder.local, plan.assignments)
    study_files.write_study(folder.local, replace(run.header, chosen=plan.chosen(), importance=plan.importance()))
    with suppress(OSError):
        run.store.refer(run.place, ())
    folder.pull_study()


def next_look(run: StudyRun, folder: SyncedFolder, plan: Plan) -> int | None:
    """Return how many seeds to go on with; None where all is decided, the last look is taken, or trials failed.

    What is decided is found in the records anew, whatever earlier runs found: a study that was killed goes on as it would have.
    """
    seeds = len(run.header.seeds)
    further = next((look for look in run.header.looks if look > seeds), None)
    if further is None or unfinished(folder, plan) or none_finished(folder, plan):
        return None
    use_analysis()
    from analysis.build import undecided  # its libraries take seconds, and are needed where seeds are added alone

    if not (names := undecided(folder.local)):
        run.say(f"look at {seeds} seeds: every comparison is decided")
        return None
    run.say(f"look at {seeds} seeds: undecided: {', '.join(names)}; going on to {further} seeds")
    return further


def make_forecast(run: StudyRun, folder: SyncedFolder, plan: Plan) -> Forecast:
    """Return the forecast of what the plan still takes, by playing it through from what is recorded."""
    usable = cache(lambda: environments(run) if run.flags.in_process else None)  # workers' are not known before they are there
    return Forecast(plan, lambda begun: simulate(run.plan(folder.local), run.store, begun=begun, environments=usable()))


def expect(forecast: Forecast, groups: int, wait: float, measure: Callable[[], Cost] | None) -> None:
    """Estimate what a plan takes: nothing a study is ended for, and nothing in which it could fail."""
    cost = None
    with suppress(Exception):
        cost = measure() if measure is not None else None
    with suppress(Exception):
        forecast.expect(cost, groups, wait)


@contextmanager
def here(run: StudyRun, folder: SyncedFolder, plan: Plan, display: Display, forecast: Forecast) -> Iterator[Trainer]:
    """Provide this process as the trainer of a plan."""
    time_sizes(run, folder, step_cost.measure_all)
    expect(forecast, groups=1, wait=0.0, measure=partial(step_cost.measure, run.base))
    forecast.start()
    display.train()
    yield partial(in_process.run, lanes=run.flags.lanes)


@contextmanager
def on_ray(run: StudyRun, folder: SyncedFolder, plan: Plan, display: Display, forecast: Forecast) -> Iterator[Trainer]:
    """Provide worker groups of a Ray cluster, joined or started here, as the trainer of a plan. Ray ends with the context."""
    display.phase("starting Ray" if run.flags.address == "local" else "joining the Ray cluster")
    import ray  # with what follows seconds, which a study that is recorded need not wait for

    from mldiv.cluster import raylet, tuner
    from mldiv.cluster.early_stopping import AfterSwitch

    try:
        connect(run.flags.address)
        interrupt.listen()
        resources, groups = share_out(run, plan)
        measure = ray.remote(measure_with).options(num_cpus=resources.cpus, num_gpus=resources.gpus)
        time_sizes(run, folder, lambda sizes: ray.get(measure.remote(loading.loaded(), partial(step_cost.measure_all, sizes))))
        scheduler = AfterSwitch.of(plan.arms, run.base) if run.flags.stop_early else None
        if scheduler is not None:
            scheduler.take_recorded(plan.brackets, folder)
            if scheduler.after <= 2:
                run.say(
                    f"--stop-early will hardly stop anything: after the last switch there are {scheduler.after} epochs left "
                    "to compare trials in"
                )
        wanted = min(groups or resources.fit(nodes()), plan.trials() - plan.answered)
        display.phase(f"Ray is up, 0 of {wanted} worker groups")
        clock = time.thread_time if resources.threads == 1 else time.perf_counter  # beside others, where a thread is all
        timed = partial(elsewhere, partial(step_cost.measure, run.base, **of_worker(resources), clock=clock))
        estimate = forecast, wanted, step_cost.GROUP_START_SECONDS, None if resources.gpus else timed  # groups have the GPUs
        with beside(expect, *estimate), raylet.watched(raylet.find(), run.say):
            yield partial(
                tuner.run, resources=resources, groups=groups, lanes=run.flags.lanes, scheduler=scheduler, tell=display.groups,
                abandon=interrupt.ENDING.is_set,
            )  # fmt: skip
    finally:
        if not interrupt.ENDING.is_set():  # then it ends with this process, whose threads may still wait for it
            ray.shutdown()


@contextmanager
def beside(work: Callable[..., None], *given: Any) -> Iterator[None]:
    """Do work in a thread meanwhile, which ends before this process does: what torch computes then ends it with an abort.

    Where Ctrl-C ends it, at once and without that, nothing is waited for.
    """
    thread = threading.Thread(target=work, args=given, daemon=True)
    thread.start()
    try:
        yield
    finally:
        if not interrupt.ENDING.is_set():
            thread.join()


def measure_with(plugins: list[Plugin], measure: Callable[[], Any]) -> Any:
    """Time steps where plug-ins are to be loaded first."""
    loading.load(plugins)
    return measure()


def elsewhere(measure: Callable[[], Any]) -> Any:
    """Time steps in a process of their own: Ray sets variables of this one, and torch, which reads them meanwhile, crashed."""
    import ray

    task = ray.remote(measure_with).options(num_cpus=0)
    return ray.get(task.remote(loading.loaded(), measure), timeout=TIMING_SECONDS)


def share_out(run: StudyRun, plan: Plan) -> tuple[Resources, int | None]:
    """Return what a worker takes of the cluster, and how many groups there may be; None: as many as fit."""
    present, may_come = nodes(), largest() if run.flags.address != "local" else []
    resources = worker_resources(run.preset, [*present, *may_come], run.flags)
    groups = run.flags.parallel_trials or resources.fit(may_come) or None
    if (idle := idleness(plan, groups or resources.fit(present))) is not None:
        run.say(idle)
    return resources, groups


def idleness(plan: Plan, groups: int) -> str | None:
    """Return what is said where a search cannot keep so many groups busy."""
    if not plan.searches or groups <= plan.open_at_once():
        return None
    return (
        f"there is room for {groups} trials at once, but the arms' searches keep {plan.open_at_once()} busy; "
        "--open-suggestions N opens more of them, each suggested with less known"
    )


def time_sizes(run: StudyRun, folder: SyncedFolder, measure: Callable[[list[TrialConfig]], list[dict[str, Any]]]) -> None:
    """Write scaling.jsonl, once, if the study has sizes whose step is to be timed."""
    path = folder.local / "scaling.jsonl"
    if run.study.sizes is not None and not path.exists():
        run.say("timing steps of several sizes")
        lines = measure(run.study.sizes(run.base))
        checked_files.write_atomically(path, "".join(json.dumps(checked_files.finite(line)) + "\n" for line in lines))


def interrupted(run: StudyRun, folder: SyncedFolder, plan: Plan) -> int:
    """Say what is recorded and how to go on; the exit code."""
    open_ones = set(unfinished(folder, plan))
    done = sum(item.trial not in open_ones for item in plan.assignments)
    run.say(
        f"interrupted; {done} of {plan.trials()} trials are recorded, the others go on from their last epoch.\n"
        "To continue: run the same command again."
    )
    return interrupt.INTERRUPTED


def finish(run: StudyRun, folder: SyncedFolder, plan: Plan, report: ReportBuilder, display: Display) -> int:
    """Write the report of what is noted; print the table and where everything is. The exit code."""
    text = report(folder.local, place=run.place)
    display.stop()
    print(plain(text))
    folder.push(folders=False, patience=PATIENCE_SECONDS)
    run.say(cost(run, folder, plan))
    if bad := unfinished(folder, plan):
        why = next((plan.failures[trial] for trial in bad if trial in plan.failures), "they left no record")
        run.say(f"{len(bad)} trials failed, the first: {why}\nTheir records say more; the same command again tries them again.")
    if ended := none_finished(folder, plan):
        run.say(ended)
    return 1 if bad or ended else 0


def none_finished(folder: SyncedFolder, plan: Plan) -> str | None:
    """Say how the trials ended where no repeat of any arm finished; None where one did."""
    repeats = {item.trial for item in plan.assignments if item.phase == "repeat"}
    found = {trial: record for trial in plan.labels if (record := find_trial(folder.local, trial)) is not None}
    if any(found[trial].status == "finished" for trial in repeats & found.keys()):
        return None
    reasons = {trial: (record.reason or "").partition("\n")[0] for trial, record in found.items()}
    counts = Counter(f"{record.status}: {reasons[trial]}" for trial, record in found.items() if record.status != "finished")
    ends = "; ".join(f"{count} {end}" for end, count in counts.most_common(3))
    return f"no trial of any arm's choice finished, and there is nothing to compare ({ends or 'none began'})"


def unfinished(folder: SyncedFolder, plan: Plan) -> list[str]:
    """Return the trials without their final record."""
    return [trial for trial in plan.labels if (found := find_trial(folder.local, trial)) is None or not found.final]


def cost(run: StudyRun, folder: SyncedFolder, plan: Plan) -> str:
    """Return what the study's trials cost, in a sentence."""
    found = [find_trial(folder.local, trial) for trial in plan.labels]
    total = {name: sum(record.cost[name] for record in found if record is not None) for name in COSTS}
    trained, shared, pretraining = (total[name] for name in COSTS)
    place = run.store.place if is_url(run.store.place) else nearby(run.store.place)
    where = f" (from {place})" if run.share else ""
    return (
        f"{trained + shared:,} epochs of {len(found)} trials: {trained:,} trained, {shared:,} shared{where}; "
        f"{pretraining:,} epochs of pretraining"
    )
