"""`--dry-run`: what a study would do and how long that would take, without starting anything."""

from typing import Any

from mldiv.cli.progress import clock
from mldiv.cluster.nodes import local_resources, worker_resources
from mldiv.sweep.simulate import any_wins, first_wins, rehearse
from mldiv.training.step_cost import GROUP_START, Work, measure


def outline(run: Any, header: dict[str, Any]) -> str:
    """The plan in words: arms, trials, epochs asked for, shared and to train, what is recorded already, estimated time."""
    base, plan = run.base, run.plan()
    trials = plan.trials()
    work = rehearse(plan, run.store, first_wins)
    other = rehearse(run.plan(), run.store, any_wins)
    resources = worker_resources(run.flags, run.preset, run.workers, [local_resources()])
    groups = resources.groups([local_resources()], trials)
    cost = measure(base)
    seconds = [GROUP_START + cost.seconds(one) / groups for one in (work, other)]
    lines = [
        f"{header['name']}: {header['question']}",
        f"  preset {header['preset']}, {header['data']}, {base.arch} at width {base.width:g}",
        f"  {base.epochs} epochs, diversity terms from epoch {base.switch_epoch} unless searched, batch {base.batch_size}",
        "",
    ]
    for arm in plan.arms:
        searched = f"{run.samples} Optuna trials over {', '.join(arm.searched)}, then " if arm.study else ""
        lines.append(f"  {arm.name}: {searched}{len(plan.seeds)} seeds")
    lines += [
        "",
        f"  {trials} trials, {plan.recorded} of them recorded already",
        f"  {work.asked:,} epochs asked for: {_between(work, other, 'shared')} shared, "
        f"{_between(work, other, 'trained')} to train{'' if work == other else ' (fewest if searches end at the defaults)'}",
        f"  {_between(work, other, 'pretraining')} epochs of pretraining to train",
        *([f"  while arms are searched, {plan.open_at_once()} trials at once at most (--batch)"] if plan.searches else []),
        f"  {groups} worker groups of {run.workers} side by side on this machine: about {clock(max(seconds))}",
        f"  results in {run.place}, shared first stages in {run.store.place}",
    ]
    return "\n".join(lines)


def _between(work: Work, other: Work, name: str) -> str:
    low, high = sorted((getattr(work, name), getattr(other, name)))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
