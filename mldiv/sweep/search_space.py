"""What a search may vary. The ranges stand at the settings, in `config`."""

from collections.abc import Collection, Mapping

import optuna

from mldiv.config import TrialConfig
from mldiv.method.kernels import kernel_parameters
from mldiv.settings import kernel_settings
from mldiv.settings.setting import FIRST_STAGE, Configuration, Log, Search, Suggesting, fields, sparing

Ranges = Mapping[str, Search]

SETTINGS = fields(TrialConfig)

#: How a setting is suggested: as it itself declares.
RANGES: dict[str, Search] = {name: item.metadata["search"] for name, item in SETTINGS.items() if item.metadata["search"]}

#: Among a study's searched settings: every parameter of any kernel, those of plug-ins too.
KERNELS_OWN = "kernel_*"

#: The positive values of the diversity terms' weights that are searched.
WEIGHTS: dict[str, tuple[float, float]] = {
    name: (SETTINGS[name].metadata["search"].low, SETTINGS[name].metadata["search"].high) for name in ("alpha", "beta")
}


def _or_zero(smallest: float, largest: float) -> Search:
    def suggest(name: str, trial: Suggesting, config: Configuration) -> float:
        least = min(smallest, getattr(config, name))
        drawn = Log(least / 10**0.5, largest)(name, trial, config)
        return drawn if drawn >= least else 0.0

    return suggest


#: Settings without effect on networks that have no posterior.
OF_POSTERIORS = frozenset(
    {"initial_sigma", "sigma_mode", "prior_std", "prior_mode", "prior_mean", "mean_weight_decay", "kl_weight", "rho_lr_scale"}
) | {"stage_two_kl_scale"}

#: How the names of settings begin that have an effect through one term alone.
OF_PARAMETER_TERM, OF_FEATURE_TERM = ("param_",), ("kernel", "feature_", "fusion", "center_features", "include_diagonal")

#: The weights on a log scale on which zero can be reached: what falls into the lowest half decade counts as 0.
OR_ZERO: dict[str, Search] = {name: _or_zero(*ends) for name, ends in WEIGHTS.items()}

#: Settings that shape a stage two that restarts, also where it has no diversity term.
RESTARTED = frozenset({"switch_epoch", "stage_two_lr_scale", "stage_two_kl_scale", "stage_two_warmup_epochs"})

#: Settings without effect in a trial that has no diversity term: such an arm is not searched over them.
DIVERSITY = sparing(TrialConfig, FIRST_STAGE) - RESTARTED


def kernels_own() -> dict[str, Search]:
    """Return how each kernel's own parameter is suggested, as its signature declares it, by setting."""
    return {name: item.metadata["search"] for name, item in kernel_settings.parameters().items()}


def suggest(trial: optuna.Trial, config: TrialConfig, names: tuple[str, ...], ranges: Ranges = RANGES) -> TrialConfig:
    """Return ``config`` with every setting in ``names`` suggested, in order; a kernel's own parameter only with that kernel."""
    start = config
    for name in names:
        if applies(name, config):
            config = config.replace(**{name: ranges[name](name, trial, start)})
    return config


def effective(config: TrialConfig, searched: Collection[str] = ()) -> TrialConfig:
    """Return the configuration with every setting at its default that has no effect in such a trial.

    searched: settings that a search may yet change.
    """
    silent = _terms_that_are_off(config, searched)
    if (config.beta == 0 and "beta" not in searched and not _measures_at_the_switch(config)) or not config.diverse:
        silent += ("scale_batches",)
    off = {name: item.default for name, item in SETTINGS.items() if silent and name.startswith(silent)}
    if not config.diverse and not {"alpha", "beta"} & set(searched):
        off |= {"alpha": 0.0, "beta": 0.0} | ({} if config.restarts else {"switch_epoch": config.epochs})
    return config.replace(**off)


def _measures_at_the_switch(config: TrialConfig) -> bool:
    """Whether ``scale_batches`` has an effect without the feature term: by the terms' shares, or the channels' order."""
    return config.weighting == "gradient" or (config.alpha > 0 and config.param_alignment == "activations")


def _terms_that_are_off(config: TrialConfig, searched: Collection[str] = ()) -> tuple[str, ...]:
    """Return how the names of settings begin that belong to a term whose weight is 0, and is not searched."""
    off: tuple[str, ...] = ()
    if (config.alpha == 0 and "alpha" not in searched) or not config.diverse:
        off += OF_PARAMETER_TERM
    if (config.beta == 0 and "beta" not in searched) or not config.diverse:
        off += OF_FEATURE_TERM
    return off


def applies(name: str, config: TrialConfig) -> bool:
    """Return whether a setting has an effect in such a trial; a weight of 0 is a term that is off, and stays off."""
    if name in ("alpha", "beta", "kl_weight") and getattr(config, name) == 0:
        return False
    if name.startswith(_terms_that_are_off(config)) or (not config.bayesian and name in OF_POSTERIORS):
        return False
    if name == "scale_batches":
        return config.diverse and (config.beta > 0 or _measures_at_the_switch(config))
    if name.startswith("kernel_"):
        return name.removeprefix("kernel_") in kernel_parameters(config.kernel)
    if name in RESTARTED and not config.restarts:
        return name == "switch_epoch" and config.diverse
    if name == "stage_two_kl_scale":
        return config.kl_weight > 0
    taught, pretrains = config.teacher != "none", bool(config.pretrained_peers) and config.pretrained is None
    acts = {
        "mutual_weight": config.peers > 1 or taught,
        "temperature": config.mutual_weight > 0 and (config.peers > 1 or taught),
        "weight_decay": not config.bayesian or pretrains or taught,
        "pretrain_epochs": pretrains,
        "pretrained_warmup_epochs": bool(config.pretrained_peers),
        "fusion_epochs": config.fusion_training == "switch" and config.fusion != "frozen",
    }
    return acts.get(name, True)
