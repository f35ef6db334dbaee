"""Early stopping of searched trials that compares like with like: within an arm and seed, after the switch, at equal epochs."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from mldiv.config import TrialConfig
from mldiv.records.checked_files import Damaged
from mldiv.records.contents import TrialTask
from mldiv.records.study_files import epoch_lines, find_trial, trial_folder
from mldiv.storage.object_store import SyncedFolder
from mldiv.sweep.arm import Arm

CONTINUE = TrialScheduler.CONTINUE

#: Of each comparison the better half goes on.
REDUCTION = 2


class AfterSwitch(FIFOScheduler):
    """ASHA (Li et al., MLSys 2020) for each bracket: the trials of one arm's search with one seed. Repeats are never stopped.

    first: the first epoch at which every trial is in stage two, if it has one; epochs: of a trial. Trials are compared by their
    validation NLL after a quarter of the epochs from ``first`` on, then each time twice as many.
    """

    def __init__(self, first: int, epochs: int) -> None:
        super().__init__()
        self.first, self.after = first, epochs - first
        self.grace = max(1, self.after // 4)
        #: How many epochs after ``first`` trials are compared; one that goes on beyond one of them was no part of it.
        self.compares = {self.grace * REDUCTION**step for step in range(self.after.bit_length())}
        self.brackets: dict[str, AsyncHyperBandScheduler] = {}
        self.compared: set[str] = set()

    @classmethod
    def of(cls, arms: Iterable[Arm], base: TrialConfig) -> "AfterSwitch":
        """Make one for a study's arms."""
        switches = [
            _latest_searched(arm) if "switch_epoch" in arm.searched else arm.config.switch_epoch
            for arm in arms
            if arm.config.diverse or arm.config.restarts
        ]
        return cls(max(switches, default=0), base.epochs)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return CONTINUE or STOP: whether the trial is among the best so far at its epoch after the switch."""
        task = TrialTask.read(trial.config)
        return CONTINUE if task.bracket is None else self.compare(task.bracket, task.trial, result["epoch"], result["nll"])

    def take_recorded(self, brackets: Mapping[str, str], study: SyncedFolder) -> None:
        """Enter the trials that earlier runs of the study ended, which Tune does not hear of. brackets: by trial.

        Raises: OSError.
        """
        study.pull(lambda name: name.endswith("/metrics.jsonl"), folder="trials")
        for trial, bracket in brackets.items():
            if (record := find_trial(study.local, trial)) is not None and record.final:
                with suppress(Damaged):
                    for line in epoch_lines(trial_folder(study.local, trial) / "metrics.jsonl"):
                        self.compare(bracket, trial, line["epoch"], line["validation"]["pair"]["nll"])

    def compare(self, name: str, trial: str, epoch: int, nll: float | None) -> str:
        """Compare a trial's epoch with what its bracket holds of the same, then enter it."""
        passed = epoch + 1 - self.first
        if passed not in self.compares or passed >= self.after or nll is None:
            return CONTINUE
        if name not in self.brackets:
            self.brackets[name] = AsyncHyperBandScheduler(
                time_attr="passed", metric="nll", mode="min", max_t=max(1, self.after - 1), reduction_factor=REDUCTION,
                grace_period=self.grace, stop_last_trials=False,
            )  # fmt: skip
        bracket: Any = self.brackets[name]
        known = SimpleNamespace(trial_id=trial)
        if trial not in self.compared:
            self.compared.add(trial)
            bracket.on_trial_add(None, known)
        return bracket.on_trial_result(None, known, {"passed": passed, "nll": nll})


def _latest_searched(arm: Arm) -> int:
    """Return the last switch that an arm's search may suggest: the end of its range, which may be the study's own."""
    trial: Any = optuna.create_study().ask()
    arm.ranges["switch_epoch"]("switch_epoch", trial, arm.config)
    kind: Any = trial.distributions["switch_epoch"]
    return max(getattr(kind, "choices", ()) or (kind.high,))  # of a set, or of a range
