"""What a search may vary, in which range, and by which rule the best is chosen. Defaults stand beside the ranges."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import optuna

from mldiv.config import TrialConfig
from mldiv.method.kernels import KERNELS, kernel_parameters
from mldiv.records import JUDGED, TrialRecord

Value = float | int | str
Suggest = Callable[[optuna.Trial, TrialConfig], Value]
Ranges = Mapping[str, Suggest]

#: The positive values of the diversity terms' weights that are searched.
WEIGHTS: dict[str, tuple[float, float]] = {"alpha": (0.01, 10.0), "beta": (0.02, 20.0)}

#: How a setting is suggested, given the configuration it changes. Add a line to make a setting searchable.
RANGES: dict[str, Suggest] = {
    "lr": lambda trial, config: trial.suggest_float("lr", config.lr / 4, config.lr * 2, log=True),  # default: the preset's
    "kl_weight": lambda trial, _: trial.suggest_float("kl_weight", 0.01, 1.0, log=True),  # default 0.1
    "temperature": lambda trial, _: trial.suggest_float("temperature", 0.5, 8.0, log=True),  # default 1
    "alpha": lambda trial, _: trial.suggest_float("alpha", *WEIGHTS["alpha"], log=True),  # default 1, as in the paper
    "beta": lambda trial, _: trial.suggest_float("beta", *WEIGHTS["beta"], log=True),  # default 2, as in the paper
    "kernel": lambda trial, _: trial.suggest_categorical("kernel", list(KERNELS)),  # default cosine, Eq. (14)
    "kernel_width": lambda trial, _: trial.suggest_float("kernel_width", 0.25, 4.0, log=True),  # default 1
    "kernel_degree": lambda trial, _: trial.suggest_int("kernel_degree", 2, 6, step=2),  # default 2
    "switch_epoch": lambda trial, config: trial.suggest_int(  # default 2/3 of the epochs, as in the paper
        "switch_epoch", config.epochs // 3, latest_switch(config)
    ),
}

DEFAULT_RULE = "validation_nll"


def _or_zero(name: str, smallest: float, largest: float) -> Suggest:
    def suggest(trial: optuna.Trial, _: TrialConfig) -> float:
        drawn = trial.suggest_float(name, smallest / 10**0.5, largest, log=True)
        return drawn if drawn >= smallest else 0.0

    return suggest


#: The weights on a log scale on which zero can be reached: what falls into the lowest half decade counts as 0.
OR_ZERO: dict[str, Suggest] = {name: _or_zero(name, *ends) for name, ends in WEIGHTS.items()}

#: Settings without effect in a trial that has no diversity term: such an arm is not searched over them.
DIVERSITY = frozenset({"alpha", "beta", "kernel", "kernel_width", "kernel_degree", "switch_epoch"})


def latest_switch(config: TrialConfig) -> int:
    """The last epoch at which a search lets the diversity terms begin."""
    return max(config.epochs // 3, config.epochs * 5 // 6)


@dataclass(frozen=True)
class Selection:
    """How the best of an arm's searched trials is chosen: objectives, scores on validation data only, lower is better. With
    more than one, the trial of the Pareto front that is nearest to the ideal point, each objective scaled to the front's
    range."""

    title: str
    objectives: tuple[str, ...]

    def values(self, record: TrialRecord | None, member: str) -> list[float] | None:
        """The objectives of a finished trial, of whom the arm is judged by (a key of JUDGED); None for any other trial, or
        where one is not finite."""
        if record is None or record.status != "finished":
            return None
        found = [[record.validation[one][name] for one in JUDGED[member]] for name in self.objectives]
        return None if any(None in values for values in found) else [sum(values) / len(values) for values in found]


SELECTION: dict[str, Selection] = {
    "validation_nll": Selection("lowest validation NLL after the last epoch", ("nll",)),
    "validation_nll_and_ece": Selection(
        "of the Pareto front of validation NLL and ECE after the last epoch, the trial nearest to the ideal point",
        ("nll", "ece"),
    ),
}


def suggest(trial: optuna.Trial, config: TrialConfig, names: tuple[str, ...], ranges: Ranges = RANGES) -> TrialConfig:
    """``config`` with every setting in ``names`` suggested, in order; a kernel's own parameter only with that kernel."""
    start = config
    for name in names:
        if applies(name, config):
            config = config.replace(**{name: ranges[name](trial, start)})
    return config


def applies(name: str, config: TrialConfig) -> bool:
    """Whether a setting has an effect in such a trial."""
    if name.startswith("kernel") and config.beta == 0:
        return False
    if name.startswith("kernel_"):
        return name.removeprefix("kernel_") in kernel_parameters(config.kernel)
    return not (name == "temperature" and config.mutual_weight == 0)
