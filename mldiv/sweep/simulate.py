"""Play a plan through without training: how many epochs it asks for, and how many of them trials share."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from types import MappingProxyType

from mldiv.config import TrialConfig
from mldiv.records.contents import TrialRecord, members_of
from mldiv.storage.cache import Store
from mldiv.sweep.plan import Plan
from mldiv.training.first_stage import first_stage_id, own_prefix
from mldiv.training.pretraining import pretraining_ids
from mldiv.training.step_cost import Work

#: What a search's trial scores (lower is better), by its configuration and how many were trained before it.
Result = Callable[[TrialConfig, int], float]


def first_wins(config: TrialConfig, number: int) -> float:
    """Score a search's trial so that its first one, the defaults, is chosen."""
    return float(number)


def simulate(
    plan: Plan, store: Store, result: Result = first_wins, begun: Mapping[str, int] = MappingProxyType({}),
    environments: Collection[str] | None = None,
) -> Work:  # fmt: skip
    """Count what training ``plan`` with this store, trial after trial, would take if searches went as ``result`` says.

    begun: how many epochs trials under way have behind them; environments: those whose entries these trials can use, as
    `first_stage.environment_id` names them; None where they are not known: all.
    """
    work, records = Work(), dict[str, TrialRecord]()
    prefixes, pretrained = _stored(store, environments)
    while (task := plan.ask()) is not None:
        config, stage = task.config, first_stage_id(task.config)
        if config.id in records:  # another arm has come to the same trial
            plan.tell(config.id, records[config.id])
            continue
        if not plan.queue.share:
            prefixes, pretrained = defaultdict(set), set()
        begin = max((epoch for epoch in prefixes[stage] if epoch <= config.first_stage), default=0)
        further = max(begun.get(config.id, 0), begin)
        if further == 0:
            missing = {name: epochs for name, epochs in pretraining_ids(config).items() if name not in pretrained}
            work.pretraining += sum(missing.values())
            pretrained |= set(missing)
        work.trials += 1
        work.shared += begin
        diverse = config.epochs - config.switch_epoch if config.diverse else 0
        work.first_stage += max(0, config.epochs - diverse - further)
        work.second_stage += min(diverse, config.epochs - further)
        prefixes[stage] |= {epoch for epoch in own_prefix(config).union(task.publish) if epoch > begin}
        plan.progress(config.id, config.epochs)
        scores = dict.fromkeys(plan.selection.objectives, result(config, work.trials))
        validation = dict.fromkeys(members_of(config.peers), scores)
        records[config.id] = TrialRecord(config.id, {}, status="finished", validation=validation)
        plan.tell(config.id, records[config.id])
    return work


def _stored(store: Store, environments: Collection[str] | None) -> tuple[dict[str, set[int]], set[str]]:
    """The epochs of each first stage's prefixes and the pretrainings in the store; a file of another name is nobody's."""
    prefixes: dict[str, set[int]] = defaultdict(set)
    pretrained = set()
    for name in store.entries():
        with suppress(ValueError):
            kind, known, *epoch = name.split("/")
            identity, environment = known.split("-")
            if environments is not None and environment not in environments:
                continue
            if kind == "trunks":
                (number,) = map(int, epoch)
                prefixes[identity].add(number)
            else:
                pretrained.add(identity)
    return prefixes, pretrained
