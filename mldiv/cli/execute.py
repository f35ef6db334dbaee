"""Execute a study: train its plan, on Ray or here, show it, write its tables, end it whatever happens."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mldiv import records
from mldiv.cli.progress import Display
from mldiv.cluster.nodes import connect, worker_resources
from mldiv.config import ConfigError, TrialConfig
from mldiv.records import find_trial
from mldiv.sweep import in_process
from mldiv.sweep.plan import Plan
from mldiv.training import step_cost

#: Seconds for which the finished study is pushed again to an object store that refuses it.
PATIENCE = 60.0


def conduct(run: Any, header: dict[str, Any], report: Callable[..., str]) -> int:
    """Train everything that is not recorded yet and build the report; the exit code."""
    plan = run.plan(storage=True)
    if recorded_all(plan):
        print(f"{run.study.name}: all trials are recorded, nothing to train", file=sys.stderr)
        return finish(run, plan, header, report)
    plan = run.plan(storage=True)
    try:
        train_here(run, plan) if run.flags.in_process else train(run, plan)
    except KeyboardInterrupt:
        done = sum(1 for item in {item.trial for item in plan.assignments} if _final(run.out, item))
        print(
            f"\n{run.study.name}: interrupted; {done} of {plan.trials()} trials are recorded, the others go on from their "
            f"last epoch.\nTo continue: run the same command again.",
            file=sys.stderr,
        )
        return 130
    except ConfigError:
        raise
    except (RuntimeError, ValueError) as error:
        print(f"{run.study.name}: {error}", file=sys.stderr)
        if os.environ.get("MLDIV_DEBUG"):
            traceback.print_exc()
        return 1
    return finish(run, plan, header, report)


def recorded_all(plan: Plan) -> bool:
    """Whether every trial of the plan has its final record: asks the plan through to its end, trains nothing."""
    return plan.next() is None and plan.done


def train(run: Any, plan: Plan) -> None:
    """Hand the plan to Tune and show its progress; Ray runs meanwhile."""
    import ray

    from mldiv.cluster import nodes, tuner

    try:
        connect(run.flags.address)
        room = nodes.largest() if run.flags.address != "local" else []
        resources = worker_resources(run.flags, run.preset, run.workers, [*nodes.nodes(), *room])
        groups = run.flags.groups or resources.fit(room) or None
        if (idle := idleness(plan, groups or resources.fit(nodes.nodes()))) is not None:
            print(f"{run.study.name}: {idle}", file=sys.stderr)
        if run.study.sizes is not None:
            measure = ray.remote(step_cost.measure_all).options(num_cpus=resources.cpus, num_gpus=resources.gpus)
            _measure(run, lambda sizes: ray.get(measure.remote(sizes)))
        scheduler = tuner.AfterSwitch.of(run.study.make_arms(run.base), run.base) if run.flags.stop_early else None
        if scheduler is not None and scheduler.after <= 2:
            print(
                f"{run.study.name}: --stop-early will hardly stop anything: after the last switch there are "
                f"{scheduler.after} epochs left to compare trials in",
                file=sys.stderr,
            )
        with Display(run.study.name, plan, run.base.epochs) as display:
            tuner.run(
                plan, run.copy, resources=resources, store=run.store, groups=groups, progress=display.update,
                scheduler=scheduler,
            )  # fmt: skip
    finally:
        ray.shutdown()


def idleness(plan: Plan, groups: int) -> str | None:
    """What is said where a search cannot keep so many groups busy."""
    if not plan.searches or groups <= plan.open_at_once():
        return None
    return (
        f"there is room for {groups} trials at once, but the arms' searches keep {plan.open_at_once()} busy; --batch N opens "
        "more of them, each suggested with less known"
    )


def train_here(run: Any, plan: Plan) -> None:
    """Train the plan in this process, without Ray."""
    _measure(run, step_cost.measure_all)
    with Display(run.study.name, plan, run.base.epochs) as display:
        in_process.run(plan, run.copy, store=run.store, progress=display.update)


def _measure(run: Any, measure: Callable[[list[TrialConfig]], list[dict[str, Any]]]) -> None:
    """Write scaling.jsonl, once, if the study has sizes whose step is to be timed."""
    path = run.out / "scaling.jsonl"
    if run.study.sizes is not None and not path.exists():
        print(f"{run.study.name}: timing steps of several sizes", file=sys.stderr)
        lines = measure(run.study.sizes(run.base))
        records.write_atomically(path, "".join(json.dumps(records.finite(line)) + "\n" for line in lines))


def finish(run: Any, plan: Plan, header: dict[str, Any], report: Callable[..., str]) -> int:
    """Write what the searches chose and the report; print the table and where everything is."""
    records.write_assignments(run.out, plan.assignments)
    records.write_json(run.out / "study.json", header | {"chosen": plan.chosen(), "importance": plan.importance()})
    with suppress(OSError):
        run.store.refer(run.place, ())
    run.copy.pull_study()
    print(report(run.out, place=run.place))
    run.copy.push(folders=False, patience=PATIENCE)
    print(cost(run, plan), file=sys.stderr)
    bad = [item for item in plan.assignments if not _final(run.out, item.trial)]
    if bad:
        print(f"{run.study.name}: {len(bad)} trials failed; their records say why. Run again to retry.", file=sys.stderr)
        return 1
    return 0


def cost(run: Any, plan: Plan) -> str:
    """What the study's trials cost, in a sentence."""
    found = [find_trial(run.out, trial) for trial in dict.fromkeys(item.trial for item in plan.assignments)]
    total = {name: sum(record.cost[name] for record in found if record is not None) for name in records.COSTS}
    trained, shared, pretraining = (total[name] for name in records.COSTS)
    return (
        f"{run.study.name}: {trained + shared:,} epochs of {len(found)} trials: {trained:,} trained, {shared:,} shared "
        f"(from {run.store.place}); {pretraining:,} epochs of pretraining"
    )


def _final(folder: Path, trial: str) -> bool:
    record = find_trial(folder, trial)
    return record is not None and record.final
