"""`--dry-run`: what a study would do and how long that would take, without starting anything."""

from typing import Any

from mldiv.conduct import local_resources, worker_resources
from mldiv.display import clock
from mldiv.estimate import GROUP_START, measure
from mldiv.records import find_trial


def outline(run: Any, header: dict[str, Any]) -> str:
    """The plan in words: arms, trials, epochs, what is shared, what is recorded already, estimated time."""
    base, plan = run.base, run.plan()
    trials = plan.trials()
    recorded = [record for config in _known(plan) if (record := find_trial(run.out, config.id)) and record.final]
    resources = worker_resources(run.preset, run.workers, local_resources())
    groups = resources.groups(local_resources(), trials)
    cost = measure(base)
    pretrained = 0 if base.initialization == "scratch" else len({0, *plan.seeds} if run.samples else set(plan.seeds))
    seconds = GROUP_START + ((trials - len(recorded)) * cost.trial(base) + pretrained * cost.pretraining) / groups
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
        f"  {trials} trials, {trials * base.epochs} epochs of training; {len(recorded)} trials are recorded already",
        f"  shared: {pretrained} pretrained networks of {base.pretrain_epochs} epochs, one per seed, serve all trials",
        f"  {groups} worker groups of {run.workers} side by side on this machine: about {clock(seconds)}",
        f"  results in {run.out}",
    ]
    return "\n".join(lines)


def _known(plan: Any) -> list[Any]:
    """The trials that can be named before any search has ended."""
    asked = []
    while (config := plan.next()) is not None:
        asked.append(config)
    return asked
