"""Every setting of a trial with its default. A misspelt name or an impossible value fails here, in the first second."""

import dataclasses
import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mldiv.datasets.ood import OOD
from mldiv.datasets.sources import DATASETS
from mldiv.method.fusion import FUSIONS
from mldiv.method.kernels import KERNELS, kernel_parameters
from mldiv.method.losses import (
    BOUNDED_TRANSFORMS,
    FEATURE_DIRECTIONS,
    FEATURE_REDUCTIONS,
    NORMALIZATIONS,
    PARAM_DISTANCES,
    TRANSFORMS,
)
from mldiv.method.networks import MODELS
from mldiv.records import trial_id

INITIALIZATIONS = ("scratch_pretrained", "scratch", "pretrained", "pretrained_same")
SCHEDULES = ("cosine", "step", "constant")
OPTIMIZERS = ("sgd", "adamw")
TEST_SPLITS = ("official", "development")
PRECISIONS = ("float32", "bf16")
SIGMA_MODES = ("relative", "absolute")

#: Fields that say where things lie and change no number: not part of a trial's identity.
PATHS = frozenset({"data_root"})


class ConfigError(ValueError):
    """A setting that cannot be used; the message says which, why, and what would do."""


@dataclass(frozen=True)
class TrialConfig:
    """One trial: a pair of Bayesian networks, their data, losses and schedule. METHOD items are marked [stated] or [chosen]."""

    # Data. Sizes are numbers of images; None takes all. Validation is split from the training set by split_seed.
    data: str = "digits"
    data_root: str | None = None
    image_size: int | None = None
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None
    #: "development" takes the test images from the training set, so that choices of defaults never see the official test set.
    test_split: str = "official"
    validation_fraction: float = 0.1
    split_seed: int = 0

    # Networks.
    arch: str = "resnet20"
    width: float = 1.0

    # Posterior. sigma_mode "relative": initial_sigma times the root mean square of each layer's initial weights [chosen; the
    # value measured, RESULTS.md].
    initial_sigma: float = 0.03
    sigma_mode: str = "relative"
    prior_std: float = 1.0
    #: Peer 1 from scratch and peer 2 with the means of a pretrained deterministic network [stated]; both from scratch; both
    #: pretrained, from two networks of different seeds or (pretrained_same) from one.
    initialization: str = "scratch_pretrained"
    pretrain_epochs: int = 30

    # Variational and mutual terms. kl_weight 1 is the true ELBO, less is a cold posterior [both values measured, RESULTS.md].
    kl_weight: float = 0.1
    temperature: float = 1.0
    mutual_weight: float = 1.0

    # Diversity terms: weights [stated], everything else [chosen].
    alpha: float = 1.0
    beta: float = 2.0
    param_distance: str = "w2"
    param_transform: str = "exp"
    param_normalization: str = "switch"
    kernel: str = "cosine"
    kernel_width: float = 1.0
    kernel_degree: int = 2
    include_diagonal: bool = False
    feature_direction: str = "symmetric"
    feature_reduction: str = "batchmean"
    feature_transform: str = "exp"
    feature_normalization: str = "switch"
    #: Batches over which the feature KL at the switch is averaged for feature_normalization "switch".
    scale_batches: int = 8
    center_features: bool = True
    fusion: str = "shared"
    fusion_dim: int = 64
    fusion_heads: int = 4

    # Schedule. Stage two (diversity on) begins at switch_epoch; switch_epoch == epochs means never.
    epochs: int = 300
    switch_epoch: int = 200
    batch_size: int = 128
    lr: float = 0.1
    #: sgd with momentum, or adamw, whose first beta is then the momentum; both peers and pretraining alike.
    optimizer: str = "sgd"
    momentum: float = 0.9
    schedule: str = "cosine"
    #: Weight decay of the deterministic pretraining; the peers are regularised by their prior alone.
    weight_decay: float = 5e-4
    rho_lr_scale: float = 1.0
    fusion_lr_scale: float = 1.0
    #: Largest norm of a peer's gradient; 0 turns clipping off.
    clip_norm: float = 5.0
    precision: str = "float32"
    channels_last: bool = False
    #: torch.compile of the pair's forward and backward, on a GPU with CUDA graphs. Where it fails, training goes on without
    #: it and the record says why.
    compile: bool = False

    # Monte Carlo weight samples per prediction: every epoch on validation data, once on test data.
    validation_samples: int = 4
    test_samples: int = 20
    #: Weight samples that an evaluation computes together by vmap: a matter of speed and memory.
    samples_at_once: int = 1
    #: Images of another kind, whose uncertainty a trained pair is asked for: "photographs", which come with a dependency,
    #: another data set's test images, or "none".
    ood: str = "photographs"

    seed: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        for item in dataclasses.fields(self):  # 1 and 1.0 are one setting, and have one identity
            value = getattr(self, item.name)
            if item.type in (float, "float") and isinstance(value, int):
                object.__setattr__(self, item.name, float(value))
        _check_names(self)
        _check_numbers(self)
        _check_schedule(self)
        _check_transforms(self)

    @property
    def id(self) -> str:
        """The trial's identity: hash of every setting but paths."""
        return trial_id(dataclasses.asdict(self), PATHS)

    @property
    def diverse(self) -> bool:
        """Whether a diversity term acts in this trial at all."""
        return (self.alpha > 0 or self.beta > 0) and self.switch_epoch < self.epochs

    @property
    def first_stage(self) -> int:
        """Epochs without diversity terms: all of them in a trial without any."""
        return self.switch_epoch if self.diverse else self.epochs

    @property
    def kernel_options(self) -> dict[str, float | int]:
        """The chosen kernel's own parameters by their names in its signature."""
        return {name: getattr(self, f"kernel_{name}") for name in kernel_parameters(self.kernel)}

    def replace(self, **changes: Any) -> "TrialConfig":
        """A copy with ``changes``.

        Raises: ConfigError for a name that is no setting (with the nearest one) or a value that cannot be.
        """
        known = [item.name for item in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"no setting is called {name!r}{nearest(name, known)}")
        return dataclasses.replace(self, **changes)


def from_dict(settings: dict[str, Any]) -> TrialConfig:
    """The configuration of a record's ``config``.

    Raises: ConfigError as `TrialConfig.replace`.
    """
    return TrialConfig().replace(**settings)


def nearest(name: str, known: Collection[str]) -> str:
    """ " (did you mean 'x'?)" for the closest known name, or the list of all."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _check_types(config: TrialConfig) -> None:
    expected: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool}
    for item in dataclasses.fields(config):
        value, allowed = getattr(config, item.name), str(getattr(item.type, "__name__", item.type))
        optional = "None" in str(item.type)
        if value is None and optional:
            continue
        kind = expected[allowed.split(" ")[0]]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{item.name} = {value!r}: expected {allowed}")


def _check_names(config: TrialConfig) -> None:
    choices: dict[str, Collection[str]] = {
        "data": DATASETS,
        "arch": MODELS,
        "fusion": FUSIONS,
        "kernel": KERNELS,
        "param_distance": PARAM_DISTANCES,
        "param_transform": TRANSFORMS,
        "feature_transform": TRANSFORMS,
        "param_normalization": NORMALIZATIONS,
        "feature_normalization": NORMALIZATIONS,
        "feature_direction": FEATURE_DIRECTIONS,
        "feature_reduction": FEATURE_REDUCTIONS,
        "initialization": INITIALIZATIONS,
        "schedule": SCHEDULES,
        "optimizer": OPTIMIZERS,
        "test_split": TEST_SPLITS,
        "precision": PRECISIONS,
        "sigma_mode": SIGMA_MODES,
        "ood": OOD,
    }
    for name, known in choices.items():
        value = getattr(config, name)
        if value not in known:
            raise ConfigError(f"{name} = {value!r} is unknown{nearest(value, known)}")


def _check_numbers(config: TrialConfig) -> None:
    positive = [
        "width",
        "initial_sigma",
        "prior_std",
        "temperature",
        "kernel_width",
        "scale_batches",
        "fusion_dim",
        "fusion_heads",
        "epochs",
        "batch_size",
        "lr",
        "rho_lr_scale",
        "validation_samples",
        "test_samples",
        "samples_at_once",
    ]
    non_negative = [
        "kl_weight",
        "mutual_weight",
        "alpha",
        "beta",
        "switch_epoch",
        "pretrain_epochs",
        "momentum",
        "weight_decay",
        "fusion_lr_scale",
        "clip_norm",
        "seed",
        "split_seed",
    ]
    for name in positive:
        if not (math.isfinite(getattr(config, name)) and getattr(config, name) > 0):
            raise ConfigError(f"{name} = {getattr(config, name)}: must be greater than zero")
    for name in non_negative:
        if not (math.isfinite(getattr(config, name)) and getattr(config, name) >= 0):
            raise ConfigError(f"{name} = {getattr(config, name)}: must not be negative")
    _check_shapes(config)


def _check_shapes(config: TrialConfig) -> None:
    for name in ("train_size", "validation_size", "test_size", "image_size"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ConfigError(f"{name} = {value}: must be greater than zero, or None for all")
    if not 0 < config.validation_fraction < 1:
        raise ConfigError(f"validation_fraction = {config.validation_fraction}: must lie between 0 and 1")
    if config.batch_size < 2:
        raise ConfigError("batch_size = 1: the feature term compares the images of a batch, take at least 2")
    if config.momentum >= 1:
        raise ConfigError(f"momentum = {config.momentum}: must be less than 1")
    if config.fusion_dim % config.fusion_heads:
        raise ConfigError(f"fusion_dim = {config.fusion_dim} must be a multiple of fusion_heads = {config.fusion_heads}")
    if config.kernel_degree < 2 or config.kernel_degree % 2:
        raise ConfigError(f"kernel_degree = {config.kernel_degree}: must be even, or similarities turn negative")


def _check_schedule(config: TrialConfig) -> None:
    if config.switch_epoch > config.epochs:
        raise ConfigError(
            f"switch_epoch = {config.switch_epoch} lies after the end (epochs = {config.epochs}): "
            f"take at most {config.epochs}, which means never"
        )
    if config.initialization != "scratch" and config.pretrain_epochs == 0:
        raise ConfigError(
            f"initialization = {config.initialization!r} needs a pretrained network: "
            "set pretrain_epochs to at least 1, or initialization to 'scratch'"
        )


def _check_transforms(config: TrialConfig) -> None:
    for term in ("param", "feature"):
        transform, normalization = getattr(config, f"{term}_transform"), getattr(config, f"{term}_normalization")
        if term == "param" and transform in BOUNDED_TRANSFORMS and normalization == "sum":
            raise ConfigError(
                f"param_transform = {transform!r} of the raw sum has gradient 0 in float32 (the sum is in the thousands): "
                "set param_normalization to 'switch' or 'mean'"
            )
