"""Every setting of a trial, each declared in one place. A misspelt name or an impossible value fails here, before any work."""

import dataclasses
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mldiv.datasets import ood as other_images
from mldiv.datasets.files import LABELS, DataError, layouts
from mldiv.datasets.sources import DATASETS
from mldiv.method.alignment import ALIGNMENTS
from mldiv.method.fusion import FUSION_TRAINING, FUSIONS
from mldiv.method.kernels import KERNELS, kernel_parameters
from mldiv.method.losses import (
    FEATURE_DIRECTIONS,
    FEATURE_REDUCTIONS,
    NORMALIZATIONS,
    PARAM_DISTANCES,
    PARAM_WEIGHTS,
    TRANSFORMS,
)
from mldiv.method.networks import MODELS
from mldiv.method.posterior import PRIOR_MEANS, PRIOR_MODES, SIGMA_MODES
from mldiv.records.contents import KEPT_COMPILE, trial_id
from mldiv.settings import kernel_settings
from mldiv.settings.setting import (
    FIRST_STAGE,
    PRETRAINING,
    STEP,
    TRIAL,
    Around,
    ConfigError,
    Log,
    Steps,
    Suggesting,
    anything,
    as_before,
    diversity_code,
    fields,
    identity,
    make_check,
    nearest,
    setting,
    shown,
)

INITIALIZATIONS = ("scratch_pretrained", "scratch", "pretrained", "pretrained_same")
OPTIMIZERS = ("sgd", "adamw")

_path = partial(setting, spares=(TRIAL, FIRST_STAGE, PRETRAINING, STEP))
_size = partial(setting, gt=0, le=10**9, spares=(PRETRAINING,))
_peers = partial(setting, spares=(PRETRAINING,))
_peers_tensor = partial(setting, spares=(PRETRAINING, STEP))
_schedule = partial(setting, spares=(STEP,))
_diversity = partial(setting, spares=(FIRST_STAGE, PRETRAINING))
_diversity_tensor = partial(setting, spares=(FIRST_STAGE, PRETRAINING, STEP))


def _a_third_to_five_sixths(name: str, trial: Suggesting, config: "TrialConfig") -> int:
    """Suggest a third to five sixths of the epochs."""
    first, last = config.epochs // 3, config.epochs * 5 // 6
    return Steps(first, max(first, last))(name, trial, config)


@dataclass(frozen=True)
class TrialConfig:
    """The settings of a trial: its Bayesian networks, their data, losses and schedule.

    METHOD items are marked [stated] or [chosen].
    """

    # Data.
    data: str = _peers("digits", "the data set; own: images given to mldiv.train", choices=DATASETS)
    data_root: str | None = _path(None, f"the folder of the data, or the file, with: {layouts()}")
    image_size: int | None = _peers(None, "pixels to which images are resized; none: as they are", gt=0, le=4096)
    train_size: int | None = _size(None, "training images; none: all")
    validation_size: int | None = setting(
        None, "validation images, split from the training set; none: by validation_fraction; 0: no image, "
        "allowed where nothing is chosen by them", ge=0, le=10**9, spares=(PRETRAINING,),
    )  # fmt: skip
    test_size: int | None = _size(None, "test images; none: all")
    test_split: str = _peers(
        "official",
        "where test images come from; development: the training set, so that choices of defaults never see the official ones",
        choices=("official", "development"),
    )
    validation_fraction: float = _peers(0.1, "share of the training set that validates", gt=0, lt=1)
    split_seed: int = _peers_tensor(0, "draws which training images validate", ge=0, lt=2**32)

    train_labels: str | None = _path(
        None, f"file of labels to train with, --train-labels: {LABELS}; validation and test keep the data set's own"
    )
    train_labels_hash: str = _peers_tensor("", "first 16 hex digits of that file's SHA-256, filled in by the flag", before="")

    # Networks.
    arch: str = setting("resnet20", "the peers' network", choices=MODELS)
    width: float = setting(1.0, "factor of the network's channels", ge=0.01, le=64)

    peers: int = _peers(
        2, "networks that learn from each other: 1, a network alone; 2 [stated]; more, each learns the mean of what it would "
        "learn from each of the others [chosen]", ge=1, le=8, before=2,
    )  # fmt: skip

    teacher: str = _peers(
        "none", "pretrained: a network alone learns, beside the labels, from a finished one of its architecture, pretrained "
        "for as many epochs as the trial has, so that both together cost what a pair costs",
        choices=("none", "pretrained"), before="none",
    )  # fmt: skip

    # Posterior.
    posterior: str = _peers(
        "gaussian", "gaussian [stated]; deterministic: networks without noise or prior, with weight_decay, for comparison",
        choices=("gaussian", "deterministic"), before="gaussian",
    )  # fmt: skip
    initial_sigma: float = _peers_tensor(
        0.03,
        "standard deviation of the weights at the start, as sigma_mode says [chosen; measured, RESULTS.md]",
        ge=1e-20,
        le=1e3,
    )
    sigma_mode: str = _peers(
        "relative",
        "relative: initial_sigma times the root mean square of each layer's initial weights; absolute: as it is; weight: times "
        "the size of each weight, at least a hundredth of that root mean square [chosen]",
        choices=SIGMA_MODES,
    )
    prior_std: float = _peers(1.0, "standard deviation of the prior, as prior_mode says", ge=1e-6, le=1e6)
    prior_mode: str = _peers(
        "relative", "absolute: prior_std as it is; relative: times the root mean square of each layer's initial weights "
        "[chosen; measured, RESULTS.md]", choices=PRIOR_MODES, before="absolute",
    )  # fmt: skip
    prior_mean: str = _peers(
        "zero", "where the prior lies: at zero, or at the means at which a peer starts [chosen]", choices=PRIOR_MEANS,
        before="zero",
    )  # fmt: skip
    mean_weight_decay: float = _peers_tensor(
        0.0, "weight decay of the posterior's means, beside the prior or, with kl_weight 0, in its place [chosen]",
        ge=0, le=1e6, before=0.0,
    )  # fmt: skip
    train_samples: int = _peers(
        1, "weight samples per step, over which the loss is averaged: smaller noise in the gradient, at the cost of as many "
        "steps", ge=1, le=1000, before=1,
    )  # fmt: skip
    initialization: str = _peers_tensor(
        "scratch_pretrained",
        "peer 1 from scratch and peer 2 with the means of a pretrained deterministic network [stated]; both from scratch; both "
        "pretrained, from two networks of different seeds or (pretrained_same) from one; further peers as peer 2",
        choices=INITIALIZATIONS,
    )
    pretrained: str | None = _path(
        None, "file of weights, --pretrained, in place of the pretrained network: a state dict (.pt, .pth), .safetensors, or a "
        "name of torchvision's such as ResNet18_Weights.DEFAULT; what does not fit, such as the last layer of other classes, "
        "stays at its random start",
    )  # fmt: skip
    pretrained_hash: str = _peers_tensor("", "first 16 hex digits of that file's SHA-256, filled in by the flag", before="")
    pretrain_epochs: int = _schedule(30, "epochs of the deterministic pretraining", ge=0, le=10**6)

    # Variational and mutual terms.
    kl_weight: float = _peers_tensor(
        0.3,
        "1 is the true ELBO [stated], less a cold posterior [chosen; measured, RESULTS.md]",
        ge=0,
        le=1e6,
        search=Around(down=10, up=10),
    )
    temperature: float = _peers_tensor(
        1.0,
        "softens the predictions that the peers learn from each other [chosen; measured]",
        ge=1e-3,
        le=1e4,
        search=Log(0.5, 8.0),
    )
    mutual_weight: float = _peers_tensor(1.0, "weight of what the peers learn from each other [chosen]", ge=0, le=1e6)

    # Diversity terms.
    alpha: float = _diversity_tensor(
        0.2, "weight of the parameter distance, as weighting says [chosen; stated: 1, of an unknown transform]", ge=0, le=1e6,
        search=Log(0.01, 4.0),
    )  # fmt: skip
    beta: float = _diversity_tensor(
        0.2, "weight of the feature KL, as weighting says [chosen; stated: 2, of an unknown transform]", ge=0, le=1e6,
        search=Log(0.01, 4.0),
    )  # fmt: skip
    weighting: str = _diversity_tensor(
        "gradient", "raw: alpha and beta as they are; gradient: as shares of the cross-entropy's gradient in the peers' means, "
        "measured at the switch over scale_batches batches and held [chosen]", choices=("raw", "gradient"), before="raw",
    )  # fmt: skip
    param_distance: str = diversity_code("w2", "distance between the posteriors; w2 [stated]", choices=PARAM_DISTANCES)
    param_weights: str = diversity_code(
        "raw", "what of the posteriors that distance compares: raw, all weights as they are; layer, each layer's over the norm "
        "of its means, mean over layers, which cannot grow by norms alone [chosen]", choices=tuple(PARAM_WEIGHTS), before="raw",
    )  # fmt: skip
    param_alignment: str = _diversity(
        "none", "how the peers' channels are matched to peer 1's before that distance compares them: by weights or activations "
        "over scale_batches batches; at the switch, and held from then on [chosen]", choices=ALIGNMENTS, before="none",
    )  # fmt: skip
    param_transform: str = diversity_code("negative_log", "what of that distance is minimised [chosen]", choices=TRANSFORMS)
    param_normalization: str = diversity_code(
        "switch", "what divides that distance first: sum, nothing; mean, the number of weights (by layer: a layer's); switch, "
        "its value at the switch [chosen]", choices=NORMALIZATIONS,
    )  # fmt: skip
    kernel: str = diversity_code("cosine", "similarity of two images' features, Eq. (14)", choices=KERNELS, search=anything)
    kernel_width: float = kernel_settings.parameter("width")
    kernel_degree: int = kernel_settings.parameter("degree")
    kernel_own: str = diversity_code(
        "",
        "other parameters of kernels, each with a setting's name of its own, kernel_NAME: those not at their default",
        before="",
    )
    include_diagonal: bool = diversity_code(False, "whether an image is among its own neighbours [chosen]")
    feature_direction: str = diversity_code(
        "symmetric", "which way round the feature KL is taken [chosen]", choices=FEATURE_DIRECTIONS
    )
    feature_reduction: str = diversity_code(
        "batchmean", "how the feature KL is reduced over a batch [chosen]", choices=FEATURE_REDUCTIONS
    )
    feature_transform: str = diversity_code("negative_log", "what of the feature KL is minimised [chosen]", choices=TRANSFORMS)
    feature_normalization: str = diversity_code(
        "switch", "what divides the feature KL first: sum or mean, nothing; switch, its value at the switch [chosen]",
        choices=NORMALIZATIONS,
    )  # fmt: skip
    scale_batches: int = _diversity_tensor(
        8,
        "batches over which is averaged what is measured at the switch: the feature KL, gradients for weighting, activations",
        gt=0,
        le=10**6,
    )
    center_features: bool = diversity_code(True, "whether fused features lose their batch mean first [chosen]")
    fusion: str = _diversity("shared", "how the blocks' features are fused [chosen]", choices=FUSIONS)
    fusion_training: str = _diversity(
        "task", "what a fusion that is not frozen learns: to raise the feature KL as the networks do (diversity), to "
        "lower what they raise (adversarial), to classify its images, which the networks learn nothing from, during stage two "
        "(task) or before it, held from then on (switch) [chosen]", choices=tuple(FUSION_TRAINING), before="diversity",
    )  # fmt: skip
    fusion_epochs: int = _diversity_tensor(
        1, "epochs over the training images in which fusion_training switch trains the fusion", ge=1, le=10**6, before=1
    )
    fusion_blocks: str = _diversity(
        "all", "which of the networks' blocks are fused, by number from 1, such as 2,3 [chosen]", before="all"
    )
    fusion_grid: int = _diversity(
        1, "cells along an image's side over which a block's features are averaged to tokens [chosen]", ge=1, le=64, before=1
    )
    fusion_dim: int = _diversity(64, "length of a fused vector", gt=0, le=2**14)
    fusion_heads: int = _diversity(4, "heads of the fusion's attention", gt=0, le=2**14)

    # Schedule.
    epochs: int = _peers_tensor(300, "epochs of both stages together", gt=0, le=10**6)
    switch_epoch: int = _diversity_tensor(
        200, "the epoch at which stage two, with the diversity terms, begins; epochs: never", ge=0, le=10**6,
        search=_a_third_to_five_sixths,
    )  # fmt: skip
    batch_size: int = setting(128, "images in a step", ge=2, le=10**6, why="the feature term compares the images of a batch")
    lr: float = _schedule(0.1, "learning rate of the first epoch", ge=1e-30, le=1e12, search=Around(down=4, up=2))
    optimizer: str = _schedule(
        "sgd", "sgd with momentum, or adamw, whose first beta is then the momentum; both peers and pretraining alike",
        choices=OPTIMIZERS,
    )  # fmt: skip
    momentum: float = _schedule(0.9, "momentum of the optimiser", ge=0, lt=1)
    schedule: str = _schedule("cosine", "how the learning rate falls [chosen]", choices=("cosine", "step", "constant"))
    stage_schedule: str = _peers_tensor(
        "restart", "continue: one schedule over both stages; restart: stage two is a run of its own, which begins with the "
        "full rate and without momentum, in arms without diversity terms too",
        choices=("continue", "restart"), before="continue",
    )  # fmt: skip
    stage_two_lr_scale: float = _diversity_tensor(
        1.0, "factor of the learning rate in a stage two that restarts", gt=0, le=1e6, search=Log(0.125, 2.0), before=1.0
    )  # fmt: skip
    stage_two_kl_scale: float = _diversity_tensor(
        1.0, "factor of kl_weight in a stage two that restarts; 0: without the prior [chosen; measured, RESULTS.md]",
        ge=0, le=1e6, search=Log(0.03, 3.0), before=1.0,
    )  # fmt: skip
    stage_two_warmup_epochs: float = _diversity_tensor(
        0.0, "epochs in which the rate of a stage two that restarts rises from zero", ge=0, le=10**6, before=0.0
    )
    warmup_epochs: float = _peers_tensor(
        0.0, "epochs in which the peers' rate rises from zero at the start", ge=0, le=10**6, before=0.0
    )
    pretrained_warmup_epochs: float = _peers_tensor(
        0.0, "the same for peers that start at pretrained means, if longer", ge=0, le=10**6, before=0.0
    )
    weight_decay: float = _schedule(
        5e-4, "of the deterministic pretraining, and of peers whose posterior is deterministic", ge=0, le=1e6
    )
    rho_lr_scale: float = _peers_tensor(1.0, "factor of the learning rate of rho, from which sigma is made", gt=0, le=1e6)
    fusion_lr_scale: float = _diversity_tensor(1.0, "factor of the fusion's learning rate", ge=0, le=1e6)
    clip_norm: float = _schedule(5.0, "largest norm of a peer's gradient; 0: not clipped", ge=0, le=1e12)
    precision: str = setting("float32", "of forward and backward", choices=("float32", "bf16"))
    channels_last: bool = setting(False, "memory layout of images and features: channels last")
    compile: str | bool = _peers(
        "auto", "how steps are computed: off, one operation after the other; graph, all of a step as one CUDA graph; on, or "
        "true, compiled by torch, on a GPU as one such graph; auto (in records: false), the fastest of these on a GPU, off on "
        "a processor. Where it fails, the record says why", choices=("auto", "off", "graph", "on"),
    )  # fmt: skip

    gradient_points: float = setting(
        0.0, "points of an epoch at which the gradients of all loss terms are measured and recorded; 0.5: every other epoch",
        spares=(TRIAL, FIRST_STAGE, PRETRAINING, STEP), ge=0, le=1000,
    )  # fmt: skip

    # Predictions.
    validation_samples: int = _peers_tensor(4, "weight samples per prediction, every epoch on validation data", gt=0, le=10**5)
    test_samples: int = _diversity_tensor(20, "weight samples per prediction, once on test data", gt=0, le=10**5)
    samples_at_once: int = _peers_tensor(
        1, "weight samples computed together by vmap: a matter of speed and memory", gt=0, le=10**5
    )
    batchnorm_batches: int = _peers_tensor(
        0, "training batches from which batch norm's statistics are estimated anew for each weight sample of a prediction; 0: "
        "those of training, which saw other samples", ge=0, le=10**6, before=0,
    )  # fmt: skip
    ood: str = _diversity(
        "photographs", "images of another kind, whose uncertainty a trained pair is asked for, with commas: photographs, which "
        "come with a dependency, noise, another data set's test images, name@FOLDER for one in a folder of its own, below "
        "data_root (or a full path, which then is in the trial's identity), or none",
    )  # fmt: skip
    shift_share: float = _diversity_tensor(
        0.0, "largest share of the training's arithmetic that predictions of corrupted test images may take, 15 kinds at five "
        "severities; 0: none are made", ge=0, le=10, before=0.0,
    )  # fmt: skip
    shift_images: str = _diversity(
        "computed", "corrupted images: computed from the test images, or files, CIFAR-10-C's or CIFAR-100-C's in a folder of "
        "that name below data_root", choices=("computed", "files"), before="computed",
    )  # fmt: skip

    keep_predictions: str = setting(
        "full", "what stays of the predictions of test images: none; top, of each image what tables and figures need; full, "
        "beside that every class's probability, so that other labels and new metrics need no training",
        choices=("none", "top", "full"), spares=(TRIAL, FIRST_STAGE, PRETRAINING, STEP), before="top",
    )  # fmt: skip

    seed: int = _schedule(0, "of everything random in a trial", ge=0, lt=2**63)

    def __post_init__(self) -> None:
        checked = _check(vars(self) | {"compile": self.steps})  # 1 and 1.0 are one setting, and have one identity
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "compile", KEPT_COMPILE.get(self.compile, self.compile))
        if self.kernel_own:
            object.__setattr__(self, "kernel_own", kernel_settings.written(kernel_settings.read(self.kernel_own)))
        _check_ood(self)
        _check_files(self)
        _check_together(self)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> float | int:
            """Return a kernel's parameter that is no field."""
            known = kernel_settings.parameters() if name.startswith(kernel_settings.PREFIX) else {}
            if name not in known:
                raise AttributeError(f"no setting is called {name!r}")
            return kernel_settings.read(self.kernel_own).get(name, known[name].default)

    @property
    def id(self) -> str:
        """The trial's identity: hash of every setting but paths."""
        return trial_id(identity(self, TRIAL))

    @property
    def diverse(self) -> bool:
        """Whether a diversity term acts in this trial at all."""
        return self.peers > 1 and (self.alpha > 0 or self.beta > 0) and self.switch_epoch < self.epochs

    @property
    def bayesian(self) -> bool:
        """Whether the peers' weights have noise."""
        return self.posterior != "deterministic"

    @property
    def first_stage(self) -> int:
        """Epochs before stage two: all of them in a trial that has none, without diversity terms and without a restart."""
        return self.switch_epoch if self.diverse or self.restarts else self.epochs

    @property
    def restarts(self) -> bool:
        """Whether the learning rate begins anew at the switch."""
        return self.stage_schedule == "restart" and self.switch_epoch < self.epochs

    @property
    def steps(self) -> str:
        """How steps are computed, as `compile` spells it."""
        return ("auto", "on")[self.compile] if isinstance(self.compile, bool) else self.compile

    @property
    def blocks(self) -> tuple[int, ...]:
        """The fused blocks, counted from 0; none for all."""
        return () if self.fusion_blocks == "all" else tuple(int(number) - 1 for number in self.fusion_blocks.split(","))

    @property
    def pretrained_peers(self) -> range:
        """The numbers of the peers that start at the means of a pretrained network."""
        return range({"scratch": self.peers + 1, "scratch_pretrained": 2}.get(self.initialization, 1), self.peers + 1)

    @property
    def kernel_options(self) -> dict[str, float | int]:
        """The chosen kernel's own parameters by their names in its signature; what has no range there has its default."""
        return {name: getattr(self, f"kernel_{name}", default) for name, default in kernel_parameters(self.kernel).items()}

    def replace(self, **changes: Any) -> "TrialConfig":
        """Return a copy with ``changes``.

        Raises: ConfigError for a name that is no setting (with the nearest one) or a value that cannot be.
        """
        known = fields(type(self))
        if given := {name: changes[name] for name in changes if name not in known}:
            own = kernel_settings.parameters().keys() - known
            for name in given:
                if name not in own:
                    raise ConfigError(f"no setting is called {name!r}{nearest(name, [*known, *own])}")
            before = kernel_settings.read(changes.get("kernel_own", self.kernel_own))
            changes = {name: changes[name] for name in changes if name in known}
            changes["kernel_own"] = kernel_settings.written(before | given)
        return dataclasses.replace(self, **changes)


_check = make_check(fields(TrialConfig))


def from_dict(settings: dict[str, Any]) -> TrialConfig:
    """Return the configuration of a record's ``config``. What it does not name, it was stored before the setting existed.

    Raises: ConfigError as `TrialConfig.replace`.
    """
    return TrialConfig().replace(**(as_before(TrialConfig) | settings))


def _check_ood(config: TrialConfig) -> None:
    try:
        other_images.check_name(config.ood)
    except DataError as error:
        raise ConfigError(str(error)) from None


def _check_files(config: TrialConfig) -> None:
    """Where a file lies is in no identity: what it holds must be."""
    for name in ("train_labels", "pretrained"):
        if bool(getattr(config, name)) != bool(getattr(config, f"{name}_hash")):
            raise ConfigError(f"{name} and {name}_hash go together: a file, and mldiv.datasets.files.content_hash of it")


def _check_together(config: TrialConfig) -> None:
    """What settings ask of each other."""
    kernel_settings.check_kernel(config.kernel)
    if config.fusion_dim % config.fusion_heads:
        raise ConfigError(f"fusion_dim = {config.fusion_dim} must be a multiple of fusion_heads = {config.fusion_heads}")
    if config.switch_epoch > config.epochs:
        raise ConfigError(
            f"switch_epoch = {config.switch_epoch} lies after the end (epochs = {config.epochs}): "
            f"take at most {config.epochs}, which means never"
        )
    if not re.fullmatch(r"all|[1-9]\d?(,[1-9]\d?)*", config.fusion_blocks) or len(set(config.blocks)) < len(config.blocks):
        raise ConfigError(f"fusion_blocks = {shown(config.fusion_blocks)}: expected all, or different numbers such as 2,3")
    if config.stage_schedule == "continue" and (
        config.stage_two_lr_scale != 1 or config.stage_two_kl_scale != 1 or config.stage_two_warmup_epochs
    ):
        raise ConfigError(
            "stage_two_lr_scale, stage_two_kl_scale and stage_two_warmup_epochs act where stage two restarts: set "
            "stage_schedule to 'restart'"
        )
    if config.initialization != "scratch" and config.pretrain_epochs == 0 and not config.pretrained:
        raise ConfigError(
            f"initialization = {config.initialization!r} needs a pretrained network: "
            "set pretrain_epochs to at least 1, or initialization to 'scratch'"
        )
    if config.teacher != "none" and config.peers > 1:
        raise ConfigError(f"teacher = {config.teacher!r} teaches a network alone: set peers to 1")
    if not config.bayesian and config.train_samples > 1:
        raise ConfigError(f"train_samples = {config.train_samples}: without noise all samples are the same; leave it at 1")
    if not config.bayesian and PARAM_DISTANCES[config.param_distance].needs_noise:
        raise ConfigError(
            f"param_distance = {config.param_distance!r} is infinite between networks without noise: set it to 'w2', or "
            "posterior to 'gaussian'"
        )
    if TRANSFORMS[config.param_transform].bounded and config.param_normalization == "sum":
        raise ConfigError(
            f"param_transform = {config.param_transform!r} of the raw sum has gradient 0 in float32 (the sum is in the "
            "thousands): set param_normalization to 'switch' or 'mean'"
        )
