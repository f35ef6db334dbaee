"""An arm of a study: one value of its scientific setting, what is searched for it, and what the search has found."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from mldiv.config import ConfigError, TrialConfig
from mldiv.records.contents import TrialRecord
from mldiv.settings.setting import fields, nearest, shown
from mldiv.sweep.search_space import DIVERSITY, KERNELS_OWN, RANGES, Ranges, applies, kernels_own


@dataclass
class Suggestion:
    """A suggestion of the open batch: its trials, one for each search seed, and those that are answered, with their record
    or with None where they left none."""

    trial: optuna.Trial
    ids: list[str]
    records: dict[str, TrialRecord | None] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        """Whether all of its trials are."""
        return len(self.records) == len(self.ids)


@dataclass
class Arm:
    """One value of a study's scientific setting: what is fixed for it, what is searched, what its search has found.

    scored_by: whose scores judge its searched trials, "pair" or "peers".
    """

    name: str
    config: TrialConfig
    searched: tuple[str, ...]
    ranges: Ranges = field(default_factory=lambda: RANGES)
    scored_by: str = "pair"
    study: optuna.Study | None = None
    batch: list[Suggestion] = field(default_factory=list)
    suggested: list[TrialConfig] = field(default_factory=list)
    pending: list[TrialConfig] = field(default_factory=list)
    repeated: int = 0

    def chosen(self) -> TrialConfig | None:
        """Return the arm's configuration for the repeats: the best that was searched; None when no searched trial finished."""
        if self.study is None:
            return self.config
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return self.suggested[_best(self.study, done).number] if done else None


def _best(study: optuna.Study, done: list[FrozenTrial]) -> FrozenTrial:
    """Return the trial to go on with, as `Selection` says; of equals the first."""
    if len(study.directions) == 1:
        return min(done, key=lambda trial: (trial.value, trial.number))
    front = sorted(study.best_trials, key=lambda trial: trial.number)
    values = np.array([trial.values for trial in front])
    spans = np.ptp(values, axis=0)
    shares = (values - values.min(0)) / np.where(spans > 0, spans, 1.0)
    return front[int((shares**2).sum(1).argmin())]


def make_arm(
    name: str, base: TrialConfig, changes: dict[str, Any], searched: tuple[str, ...], ranges: Ranges = MappingProxyType({}),
    scored_by: str = "pair",
) -> Arm:  # fmt: skip
    """Make an arm: ``base`` with ``changes``; searched over ``searched`` less what the changes fix or what has no effect there.

    ranges: before those that settings declare. Raises: ConfigError for a change that is no setting, a search without a range.
    """
    try:
        config, own = base.replace(**changes), kernels_own()
    except ConfigError as error:
        raise ConfigError(f"arm {name!r}: {error}") from None
    ranges = RANGES | own | dict(ranges)
    searched = tuple(name for item in searched for name in (own if item == KERNELS_OWN else (item,)))
    idle = set() if config.diverse else DIVERSITY | own.keys()
    for item in searched:
        if item not in ranges:
            how = f": give it ranges={{{item!r}: Log(low, high)}}" if item in fields(TrialConfig) else nearest(item, ranges)
            raise ConfigError(f"the study searches {item!r}, for which it has no range{how}")
        if not callable(ranges[item]):
            raise ConfigError(f"the range of {item!r} is {shown(ranges[item])}: expected one such as Log(low, high)")
    without = set(changes) | idle
    kept = tuple(item for item in searched if item not in without)
    free = {item for item in kept if item.startswith("kernel_")} if "kernel" in kept and applies("kernel", config) else set()
    kept = tuple(item for item in kept if item in free or applies(item, config))
    return Arm(name, config, kept, ranges, scored_by)
