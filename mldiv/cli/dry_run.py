"""`--dry-run`: what a study would do and how long that would take, without starting anything."""

from pathlib import Path
from typing import Any

import torch

from mldiv.cli.folder import cuts
from mldiv.cli.run import StudyRun
from mldiv.cli.screen.display import clock
from mldiv.cluster.nodes import Resources, local_resources, worker_resources
from mldiv.environment import numerics
from mldiv.records.contents import StudyRecord
from mldiv.sweep.plan import Plan
from mldiv.sweep.simulate import simulate
from mldiv.training import step_cost
from mldiv.training.first_stage import environment_id
from mldiv.training.lanes.run import count_lanes
from mldiv.training.step_cost import GROUP_START_SECONDS, IN_PROCESS_SECONDS
from mldiv.training.worker_cache import dataset


def describe(run: StudyRun, folder: Path) -> str:
    """Return the plan in words: arms, trials, epochs asked for, shared and to train, what is recorded already, estimated time.

    Raises: ConfigError where not even one trial fits on this machine.
    """
    base, header, plan = run.base, run.header, run.plan(folder)
    trials = plan.trials()
    where, groups, start, worker = _side_by_side(run, trials)
    work = simulate(plan, run.store, environments=environments(run, **worker))
    seconds = start + step_cost.measure(base, **worker).seconds(work) / groups
    assumed = " (if every search ends at its defaults)" if plan.searches and work.trials else ""
    at_once = f"  while arms are searched, {plan.open_at_once()} trials at once at most (--open-suggestions)"
    second = "diversity terms" if any(arm.config.diverse or arm.study for arm in plan.arms) else "stage two"
    lines = [
        f"{header.name}: {header.question}",
        f"  preset {header.preset}, {header.data}, {base.arch} at width {base.width:g}",
        f"  {base.epochs} epochs, {second} from epoch {base.switch_epoch} unless searched, batch {base.batch_size}",
        "",
        *_arms(plan),
        "",
        *_looks(plan, header),
        f"  {trials} trials, {plan.recorded} of them recorded already",
        f"  {work.asked:,} epochs asked for: {work.shared:,} shared, {work.trained:,} to train{assumed}",
        f"  {work.pretraining:,} epochs of pretraining to train",
        *([at_once] if plan.searches else []),
        f"  {where}: about {clock(seconds)}",
        f"  results in {run.place}, {f'shared first stages in {run.store.place}' if run.share else 'nothing shared'}",
    ]
    return "\n".join(lines)


def _arms(plan: Plan) -> list[str]:
    """A line for each arm: what is searched, how often it is repeated."""
    lines = []
    for arm in plan.arms:
        searched = f"{plan.samples} Optuna trials over {', '.join(arm.searched)}, then " if arm.study else ""
        lines.append(f"  {arm.name}: {searched}{len(plan.seeds)} seeds")
    return lines


def _looks(plan: Plan, header: StudyRecord) -> list[str]:
    """Say how seeds are added, where they are added as needed; what follows is of the first look."""
    if not header.looks:
        return []
    looks, first = ", ".join(map(str, header.looks)), header.looks[0]
    most = plan.trials() + len(plan.arms) * (header.looks[-1] - first)
    return [
        f"  seeds are added until every comparison is decided: looks at {looks} seeds, at a level of {header.level:.2%} each",
        f"  at most {most} trials",
        "  until the first look:",
    ]


def _side_by_side(run: StudyRun, trials: int) -> tuple[str, int, float, dict[str, Any]]:
    """Where the study would train, in words; how many trials at once; seconds besides the training; a worker's threads and
    device."""
    if run.flags.in_process:
        lanes = count_lanes(run.flags.lanes, "cuda" if torch.cuda.is_available() else "cpu")
        said = "one trial after the other" if lanes == 1 else f"{lanes} trials at a time"
        return f"{said} in this process", 1, IN_PROCESS_SECONDS, {}
    nodes = [local_resources()]
    resources = worker_resources(run.preset, nodes, run.flags)
    groups = min(resources.groups(nodes, trials), run.flags.parallel_trials or trials)
    lanes = count_lanes(run.flags.lanes, "cuda" if resources.gpus else "cpu")
    each = f", each with {lanes} trials at a time" if lanes > 1 else ""
    words = f"{groups} worker groups of {run.flags.workers} side by side on this machine{each}"
    return words, groups, GROUP_START_SECONDS, of_worker(resources)


def environments(run: StudyRun, threads: int = 1, device: torch.device | None = None) -> set[str] | None:
    """Return the environments of this machine's trials, one for each cut of the data; None on a cluster, which may have others.

    threads, device: as `step_cost.measure` is told.
    """
    if run.flags.address != "local":
        return None
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    numerics.prepare(device)
    given: dict[str, Any] = {"threads": threads, "ranks": run.flags.workers}
    lanes = {False, count_lanes(run.flags.lanes, device.type) > 1}  # networks are pretrained one by one
    return {environment_id(dataset(config), device, several, **given) for config in cuts(run).values() for several in lanes}


def of_worker(resources: Resources) -> dict[str, Any]:
    """Return what `step_cost.measure` is told of a worker that takes so much."""
    return {"threads": resources.threads, "device": None if resources.gpus else torch.device("cpu")}
