"""Which trials a study trains: per arm an Optuna search, then the choice repeated on fresh seeds. In what order: `queue`.

No Ray here. An arm asks Optuna in batches, and for a batch only when all of the last one is answered, so what it suggests
depends on its seed and the trials' results alone, never on timing. A plan started again on the same records repeats the same
suggestions; trials that are already recorded are answered at once. The records are the truth, the Optuna storage a copy.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from mldiv.config import TrialConfig
from mldiv.records.checked_files import RecordError
from mldiv.records.contents import Assignment, TrialRecord, TrialTask
from mldiv.records.study_files import find_trial
from mldiv.storage.cache import Store
from mldiv.storage.object_store import SyncedFolder, join
from mldiv.sweep.arm import Arm, Suggestion
from mldiv.sweep.common_points import COMMON_POINTS, common_points
from mldiv.sweep.queue import Task, TrialQueue
from mldiv.sweep.search_space import applies, suggest
from mldiv.sweep.selection import SELECTION

optuna.logging.set_verbosity(optuna.logging.WARNING)

#: Seed of the trials in the search phase; the repeats take 1, 2, ... A search over several seeds takes those from
#: OTHER_SEARCH_SEEDS on beside it.
SEARCH_SEED = 0
OTHER_SEARCH_SEEDS = 10_001

#: Hears of every report of a trial, and last of its end (``ended``).
Progress = Callable[[str, dict[str, Any]], None]

#: Fewest finished trials of a search that say anything of a setting's importance.
IMPORTANCE_TRIALS = 10


class Plan:
    """Hands out trials and takes their records back.

    samples: Optuna trials of each searched arm; batch: how many of them are open at once (the unit of repetition);
    seeds: of the repeats; search_seeds: each suggestion is trained with every one of them and judged by the mean; share:
    whether trials share first stages; drawn: as `common_points` has it. labels, epochs: of every trial that is named; failures:
    the first line of its reason for every trial that has failed.
    """

    def __init__(
        self, arms: list[Arm], folder: Path, *, samples: int, seeds: tuple[int, ...], batch: int = 1,
        rule: str = "validation_nll", search_seeds: Sequence[int] = (SEARCH_SEED,),
        storage: BaseStorage | None = None, share: bool = True, drawn: Sequence[Sequence[str]] = (),
    ) -> None:  # fmt: skip
        self.arms, self.folder, self.samples, self.seeds = arms, Path(folder), samples, seeds
        self.batch, self.selection, self.search_seeds = batch, SELECTION[rule], tuple(search_seeds)
        self.assignments: list[Assignment] = []
        self.labels: dict[str, str] = {}
        self.epochs: dict[str, int] = {}
        self.brackets: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self.answered = self.recorded = 0
        self.waiting_for: dict[str, list[tuple[Arm, str]]] = {}
        points = common_points(arms, min(samples, COMMON_POINTS), drawn, SEARCH_SEED)
        switches = {arm.config.switch_epoch for arm in arms} | {
            point["switch_epoch"] for of_arm in points.values() for point in of_arm if "switch_epoch" in point
        }
        self.queue = TrialQueue(share, switches)
        for arm in arms:
            arm.config = arm.config.replace(seed=self.search_seeds[0])
            if arm.searched and samples:
                arm.study = self._search(arm, points[arm.name], storage)

    def _search(self, arm: Arm, points: list[dict[str, Any]], storage: BaseStorage | None) -> optuna.Study:
        """The arm's search, which begins with its defaults, then with all but the first of the common points."""
        study = optuna.create_study(
            study_name=f"{self.folder.name}: {arm.name}",
            sampler=optuna.samplers.TPESampler(seed=SEARCH_SEED, n_startup_trials=COMMON_POINTS),
            storage=storage,
            directions=["minimize"] * len(self.selection.objectives),
        )
        study.enqueue_trial({name: getattr(arm.config, name) for name in arm.searched})
        for point in points[1:]:
            study.enqueue_trial({name: point[name] for name in arm.searched})
        return study

    def trials(self) -> int:
        """Return how many trials the whole plan has; none of a choice that an arm's search, now over, has not found."""
        search = self.samples * len(self.search_seeds)
        repeats = sum(arm.repeated if self._exhausted(arm) else len(self.seeds) for arm in self.arms)
        return repeats + sum(search for arm in self.arms if arm.study)

    @property
    def searches(self) -> bool:
        """Whether any arm is searched."""
        return any(arm.study for arm in self.arms)

    def open_at_once(self) -> int:
        """Return how many trials may be open while the arms are searched."""
        search = min(self.batch, self.samples) * len(self.search_seeds)
        return sum(search if arm.study else len(self.seeds) for arm in self.arms)

    def catch_up(self) -> bool:
        """Ask for every trial that can be named yet, answer those that are recorded; return whether all of the plan is."""
        self._ask_everything()
        return self.done

    def ask(self) -> Task | None:
        """Return a trial to train now; None when all are handed out, or answers or a first stage must come first (`done`)."""
        self._ask_everything()
        return self.queue.take()

    def travelling(self, task: Task, study: SyncedFolder, store: Store) -> TrialTask:
        """Return a task with what is to be known where it is trained: the places of its folder and of the store."""
        trial = task.config.id
        return TrialTask(
            trial=trial,
            config=asdict(task.config),
            folder=join(study.place, "trials", trial),
            store=store.place if self.queue.share else None,
            store_limit=store.limit,
            publish=list(task.publish),
            bracket=self.brackets.get(trial),
        )

    def progress(self, trial: str, epochs: int) -> None:
        """Hear that a trial has trained so many epochs: those who wait for its first stage may be free now."""
        self.queue.progress(trial, epochs)

    @property
    def done(self) -> bool:
        """Whether every trial of the plan has been answered."""
        return not self.waiting_for and all(self._exhausted(arm) for arm in self.arms)

    def tell(self, trial: str, record: TrialRecord | None) -> None:
        """Take a trial's record at its end. None: it left none (interrupted or lost)."""
        self.queue.end(trial)
        if record is None or record.status == "failed":
            reason = (record.reason or "" if record is not None else "").strip() or "it left no record"
            self.failures[trial] = reason.splitlines()[0]
        for arm, phase in self.waiting_for.pop(trial, []):
            self._answer(arm, phase, trial, record)

    def chosen(self) -> dict[str, dict[str, Any]]:
        """Return for each arm whose search is over the searched settings it goes on with."""
        return {
            arm.name: {name: getattr(config, name) for name in arm.searched if applies(name, config)}
            for arm in self.arms
            if self._searched(arm) and (config := arm.chosen()) is not None
        }

    def importance(self) -> dict[str, dict[str, float]]:
        """Return for each arm with enough finished trials the share of each setting in what makes a trial one of its best.

        By the first objective: PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023), as Optuna computes it.
        """
        return {arm.name: _importance(arm.study) for arm in self.arms if arm.study is not None and _enough(arm.study)}

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
        if arm.study is not None and not arm.pending and len(arm.suggested) < self.samples and len(arm.batch) < self.batch:
            self._suggest(arm, arm.study)
        if arm.pending:
            return arm.pending.pop(0), "search"
        if not self._searched(arm):
            return None, "search"
        chosen = arm.chosen()
        if chosen is None or arm.repeated == len(self.seeds):
            return None, "repeat"
        arm.repeated += 1
        return chosen.replace(seed=self.seeds[arm.repeated - 1]), "repeat"

    def _suggest(self, arm: Arm, study: optuna.Study) -> None:
        """Optuna's next suggestion: a trial for each search seed."""
        trial = study.ask()
        config = suggest(trial, arm.config, arm.searched, arm.ranges)
        arm.suggested.append(config)
        arm.pending = [config.replace(seed=seed) for seed in self.search_seeds]
        arm.batch.append(Suggestion(trial, [config.id for config in arm.pending]))
        trial.set_user_attr("trials", arm.batch[-1].ids)

    def _searched(self, arm: Arm) -> bool:
        return arm.study is None or (len(arm.suggested) == self.samples and not arm.batch)

    def _exhausted(self, arm: Arm) -> bool:
        return self._searched(arm) and (arm.repeated == len(self.seeds) or arm.chosen() is None)

    def _assign(self, arm: Arm, phase: str, config: TrialConfig) -> None:
        self.assignments.append(Assignment(arm.name, phase, config.seed, config.id))
        detail = f"seed {config.seed}"
        if phase == "search":
            detail = f"search {len(arm.suggested)}/{self.samples}"
            if len(self.search_seeds) > 1:
                detail += f", seed {self.search_seeds.index(config.seed) + 1} of {len(self.search_seeds)}"
            self.brackets.setdefault(config.id, f"{arm.name}, seed {config.seed}")
        self.labels[config.id] = f"{arm.name}, {detail}"
        self.epochs[config.id] = config.epochs

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
        suggestion = next(item for item in arm.batch if trial in item.ids and trial not in item.records)
        suggestion.records[trial] = record
        complete = len(arm.batch) == self.batch or len(arm.suggested) == self.samples
        if complete and not arm.pending and all(item.answered for item in arm.batch):
            for item in arm.batch:
                self._tell_optuna(arm, arm.study, item)
            arm.batch.clear()

    def _tell_optuna(self, arm: Arm, study: optuna.Study, suggestion: Suggestion) -> None:
        """COMPLETE with the mean over its seeds where all finished, PRUNED where one was stopped early, else FAIL."""
        found = list(suggestion.records.values())
        values = [value for record in found if (value := self.selection.values(record, arm.scored_by)) is not None]
        if len(values) == len(suggestion.ids):
            study.tell(suggestion.trial, [sum(column) / len(column) for column in zip(*values, strict=True)])
            return
        ends = {record.status for record in found if record is not None and record.status != "finished"}
        study.tell(suggestion.trial, state=TrialState.PRUNED if ends == {"stopped"} else TrialState.FAIL)


def _enough(study: optuna.Study) -> bool:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return len(done) >= IMPORTANCE_TRIALS and len({trial.values[0] for trial in done}) > 1


def _importance(study: optuna.Study) -> dict[str, float]:
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # takes a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of several objectives' first, low is good: that is what we want
        first = (lambda trial: trial.values[0]) if len(study.directions) > 1 else None
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), target=first)


def pull_record(study: SyncedFolder, trial: str) -> TrialRecord | None:
    """Fetch what a trial has left in the study's folder; None where that is nothing that can be used, or the object store does
    not answer."""
    with suppress(OSError, RecordError):
        study.pull(lambda name: name.endswith("/trial.json"), f"trials/{trial}", deep=False)
        return find_trial(study.local, trial)
    return None


def search_seeds(count: int) -> tuple[int, ...]:
    """Return the seeds of a search that trains each suggestion ``count`` times."""
    return (SEARCH_SEED, *range(OTHER_SEARCH_SEEDS, OTHER_SEARCH_SEEDS + count - 1))


def journal(path: Path) -> JournalStorage:
    """Make a fresh Optuna storage in one file, for optuna-dashboard; the records fill it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in (path, path.with_name(f"{path.name}.lock")):  # of a killed study; Optuna would wait for that one
        left.unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))
