"""Early stopping of searched trials that compares like with like: within an arm and seed, after the switch, at equal epochs."""

from collections.abc import Iterable
from typing import Any

import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from mldiv.config import TrialConfig
from mldiv.records.contents import TrialTask
from mldiv.sweep.arm import Arm

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
        name, passed = TrialTask.read(trial.config).bracket, result["epoch"] + 1 - self.first
        if name is None or passed not in self.compares or passed >= self.after or result["nll"] is None:
            return TrialScheduler.CONTINUE
        if name not in self.brackets:
            self.brackets[name] = AsyncHyperBandScheduler(
                time_attr="passed", metric="nll", mode="min", max_t=max(1, self.after - 1), reduction_factor=REDUCTION,
                grace_period=self.grace, stop_last_trials=False,
            )  # fmt: skip
        bracket = self.brackets[name]
        if trial.trial_id not in self.compared:
            self.compared.add(trial.trial_id)
            bracket.on_trial_add(tune_controller, trial)
        return bracket.on_trial_result(tune_controller, trial, result | {"passed": passed})


def _latest_searched(arm: Arm) -> int:
    """Return the last switch that an arm's search may suggest: the end of its range, which may be the study's own."""
    trial: Any = optuna.create_study().ask()
    arm.ranges["switch_epoch"]("switch_epoch", trial, arm.config)
    kind: Any = trial.distributions["switch_epoch"]
    return max(getattr(kind, "choices", ()) or (kind.high,))  # of a set, or of a range
