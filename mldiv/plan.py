"""Which trials a study trains: per arm an Optuna search, then the choice repeated on fresh seeds. In what order: `order`.

No Ray here. An arm asks Optuna in batches, and for a batch only when all of the last one is answered, so what it suggests
depends on its seed and the trials' results alone, never on timing. A plan started again on the same records repeats the same
suggestions; trials that are already recorded are answered at once. The records are the truth, the Optuna storage a copy.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from mldiv.config import TrialConfig
from mldiv.order import Task, TrunkQueue
from mldiv.records import Assignment, TrialRecord, find_trial
from mldiv.search_space import DIVERSITY, SELECTION, suggest

optuna.logging.set_verbosity(optuna.logging.WARNING)

#: Seed of every trial in the search phase; the repeats take 1, 2, ...
SEARCH_SEED = 0

#: Points of a search that all arms have in common: the defaults, then random ones. What follows is TPE's, arm by arm.
COMMON_POINTS = 10


@dataclass
class Asked:
    """A suggestion of the open batch; ``answered`` with its record, or with None when it left none."""

    trial: optuna.Trial
    id: str
    answered: bool = False
    record: TrialRecord | None = None


@dataclass
class Arm:
    """One value of a study's scientific setting: what is fixed for it, what is searched, what its search has found."""

    name: str
    config: TrialConfig
    searched: tuple[str, ...]
    study: optuna.Study | None = None
    batch: list["Asked"] = field(default_factory=list)
    asked: int = 0
    repeated: int = 0

    def chosen(self, rule: str) -> TrialConfig | None:
        """The arm's configuration for the repeats: the best by ``rule``; None when no searched trial finished."""
        if self.study is None:
            return self.config
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done:
            return None
        best = min(done, key=lambda trial: (trial.value, trial.number))
        return self.config.replace(**{name: best.params.get(name, getattr(self.config, name)) for name in self.searched})


class Plan:
    """Hands out trials and takes their records back.

    samples: Optuna trials of each searched arm; batch: how many of them are open at once (the unit of repetition);
    seeds: of the repeats; share: whether trials share first stages.
    """

    def __init__(
        self, arms: list[Arm], folder: Path, *, samples: int, seeds: tuple[int, ...], batch: int = 1,
        rule: str = "validation_nll", search_seed: int = SEARCH_SEED, storage: BaseStorage | None = None, share: bool = True,
    ) -> None:  # fmt: skip
        self.arms, self.folder, self.samples, self.seeds = arms, Path(folder), samples, seeds
        self.batch, self.rule = batch, rule
        self.assignments: list[Assignment] = []
        self.labels: dict[str, str] = {}
        self.answered = self.recorded = 0
        self.waiting_for: dict[str, list[tuple[Arm, str]]] = {}
        points = _common_points(arms, min(samples, COMMON_POINTS), search_seed)
        switches = {arm.config.switch_epoch for arm in arms} | {
            point["switch_epoch"] for point in points if "switch_epoch" in point
        }
        self.queue = TrunkQueue(share, switches)
        for arm in arms:
            arm.config = arm.config.replace(seed=SEARCH_SEED)
            if arm.searched and samples:
                arm.study = optuna.create_study(
                    study_name=f"{self.folder.name}: {arm.name}",
                    sampler=optuna.samplers.TPESampler(seed=search_seed, n_startup_trials=COMMON_POINTS),
                    storage=storage,
                    direction="minimize",
                )
                arm.study.enqueue_trial({name: getattr(arm.config, name) for name in arm.searched})
                for point in points[1:]:
                    arm.study.enqueue_trial({name: point[name] for name in arm.searched})

    def trials(self) -> int:
        """How many trials the whole plan has."""
        return sum(len(self.seeds) + (self.samples if arm.study else 0) for arm in self.arms)

    def next(self) -> Task | None:
        """A trial to train now, or None: all are handed out, or answers or a trunk must come first (see `done`)."""
        self._ask_everything()
        return self.queue.next()

    def progress(self, trial: str, epochs: int) -> None:
        """A trial under way has trained so many epochs: those who wait for its first stage may be free now."""
        self.queue.progress(trial, epochs)

    @property
    def done(self) -> bool:
        return not self.waiting_for and all(self._exhausted(arm) for arm in self.arms)

    def tell(self, trial: str, record: TrialRecord | None) -> None:
        """A trial's end. None: it left no record (interrupted or lost)."""
        self.queue.end(trial)
        for arm, phase in self.waiting_for.pop(trial, []):
            self._answer(arm, phase, trial, record)

    def chosen(self) -> dict[str, dict[str, Any]]:
        """For each arm whose search is over, the searched settings it goes on with."""
        return {
            arm.name: {name: getattr(config, name) for name in arm.searched}
            for arm in self.arms
            if self._searched(arm) and (config := arm.chosen(self.rule)) is not None
        }

    def _ask_everything(self) -> None:
        """Name every trial that can be named yet; answer those that are recorded, queue the others."""
        progress = True
        while progress:
            progress = False
            for arm in self.arms:
                config, phase = self._ask(arm)
                if config is None:
                    continue
                progress = True
                self._assign(arm, phase, config)
                record = find_trial(self.folder, config.id)
                if record is not None and record.final:
                    self.recorded += 1
                    self._answer(arm, phase, config.id, record)
                elif self._wait_for(arm, phase, config.id):
                    self.queue.add(config)

    def _ask(self, arm: Arm) -> tuple[TrialConfig | None, str]:
        if arm.study is not None and arm.asked < self.samples:
            if len(arm.batch) == self.batch:
                return None, "search"
            trial = arm.study.ask()
            arm.asked += 1
            config = suggest(trial, arm.config, arm.searched)
            trial.set_user_attr("trial", config.id)
            arm.batch.append(Asked(trial, config.id))
            return config, "search"
        if not self._searched(arm) or arm.repeated == len(self.seeds):
            return None, "repeat"
        chosen = arm.chosen(self.rule)
        if chosen is None:
            return None, "repeat"
        arm.repeated += 1
        return chosen.replace(seed=self.seeds[arm.repeated - 1]), "repeat"

    def _searched(self, arm: Arm) -> bool:
        return arm.study is None or (arm.asked == self.samples and not arm.batch)

    def _exhausted(self, arm: Arm) -> bool:
        return self._searched(arm) and (arm.repeated == len(self.seeds) or arm.chosen(self.rule) is None)

    def _assign(self, arm: Arm, phase: str, config: TrialConfig) -> None:
        self.assignments.append(Assignment(arm.name, phase, config.seed, config.id))
        detail = f"search {arm.asked}/{self.samples}" if phase == "search" else f"seed {config.seed}"
        self.labels[config.id] = f"{arm.name}, {detail}"

    def _wait_for(self, arm: Arm, phase: str, trial: str) -> bool:
        """Note who waits for a trial; whether it is new (else another arm has asked for the same)."""
        waiting = self.waiting_for.setdefault(trial, [])
        waiting.append((arm, phase))
        return len(waiting) == 1

    def _answer(self, arm: Arm, phase: str, trial: str, record: TrialRecord | None) -> None:
        """Note a searched trial's record; tell Optuna of the batch, in the order asked, when all of it is answered."""
        self.answered += 1
        if phase == "repeat" or arm.study is None:
            return
        asked = next(item for item in arm.batch if item.id == trial and not item.answered)
        asked.answered, asked.record = True, record
        complete = len(arm.batch) == self.batch or arm.asked == self.samples
        if complete and all(item.answered for item in arm.batch):
            for item in arm.batch:
                self._tell_optuna(arm.study, item)
            arm.batch.clear()

    def _tell_optuna(self, study: optuna.Study, asked: Asked) -> None:
        """COMPLETE with its value for a finished trial, PRUNED for one stopped early, FAIL for any other end."""
        record = asked.record
        value = SELECTION[self.rule][1](record) if record is not None and record.status == "finished" else None
        if value is not None:
            study.tell(asked.trial, value)
        else:
            stopped = record is not None and record.status == "stopped"
            study.tell(asked.trial, state=TrialState.PRUNED if stopped else TrialState.FAIL)


def _common_points(arms: list[Arm], count: int, seed: int) -> list[dict[str, Any]]:
    """The first points of every arm's search, drawn at random over all that any arm searches: arms are compared at the same
    points, and trials at one point share their first stage."""
    names = tuple(dict.fromkeys(name for arm in arms for name in arm.searched))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    points = []
    for _ in range(count if names else 0):
        trial = study.ask()
        suggest(trial, arms[0].config, names)
        points.append(trial.params)
    return points


def make_arm(name: str, base: TrialConfig, changes: dict[str, Any], searched: tuple[str, ...]) -> Arm:
    """An arm: ``base`` with ``changes``; searched over ``searched`` less what the changes fix or what has no effect there.

    Raises: ConfigError for a change that is no setting.
    """
    config = base.replace(**changes)
    without = set(changes) | (set() if config.diverse else DIVERSITY)
    return Arm(name, config, tuple(item for item in searched if item not in without))


def journal(path: Path) -> JournalStorage:
    """A fresh Optuna storage in one file, for optuna-dashboard; the records fill it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))
