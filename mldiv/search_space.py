"""What a search may vary, in which range, and by which rule the best is chosen. Defaults stand beside the ranges."""

from collections.abc import Callable

import optuna

from mldiv.config import TrialConfig
from mldiv.kernels import KERNELS
from mldiv.records import TrialRecord

Suggest = Callable[[optuna.Trial, TrialConfig], float | int | str]

#: How a setting is suggested, given the configuration it changes. Add a line to make a setting searchable.
RANGES: dict[str, Suggest] = {
    "alpha": lambda trial, _: trial.suggest_float("alpha", 0.01, 10.0, log=True),  # default 1, as in the paper
    "beta": lambda trial, _: trial.suggest_float("beta", 0.02, 20.0, log=True),  # default 2, as in the paper
    "temperature": lambda trial, _: trial.suggest_float("temperature", 1.0, 8.0, log=True),  # default 3
    "kernel": lambda trial, _: trial.suggest_categorical("kernel", list(KERNELS)),  # default cosine, Eq. (14)
    "switch_epoch": lambda trial, config: trial.suggest_int(  # default 2/3 of the epochs, as in the paper
        "switch_epoch", config.epochs // 3, max(config.epochs // 3, config.epochs * 5 // 6)
    ),
}

#: Settings without effect in a trial that has no diversity term: such an arm is not searched over them.
DIVERSITY = frozenset({"alpha", "beta", "kernel", "switch_epoch"})

#: Rules by which the best of an arm's searched trials is chosen: lower is better. Validation data only.
SELECTION: dict[str, tuple[str, Callable[[TrialRecord], float | None]]] = {
    "validation_nll": (
        "lowest validation NLL of the pair at the last epoch",
        lambda record: record.validation["pair"]["nll"],
    ),
}


def suggest(trial: optuna.Trial, config: TrialConfig, names: tuple[str, ...]) -> TrialConfig:
    """``config`` with every setting in ``names`` suggested."""
    return config.replace(**{name: RANGES[name](trial, config) for name in names})
