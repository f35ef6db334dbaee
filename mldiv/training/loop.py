"""What a trial trains and how: the pair, its batches, learning rate, optimiser, steps, gradients over ranks."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mldiv import distributed
from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets.splits import ImageData, Shapes, draw_augmentation, train_batches
from mldiv.evaluation import predictive
from mldiv.evaluation.metrics import Predictive
from mldiv.method.fusion import FUSIONS, TASK_TRAINED, PeerFusion
from mldiv.method.kernels import KERNELS
from mldiv.method.networks import build
from mldiv.method.pair import MutualPair, Objective, term_names
from mldiv.seeding import derive, generator
from mldiv.settings.setting import shown

#: A step of (images, labels, noise, diverse), which returns the vector of the pair's terms.
PairStep = Callable[[Tensor, Tensor, Sequence[Tensor], bool], Tensor]


def network(config: TrialConfig, shapes: Shapes, purpose: str) -> nn.Module:
    """Build the configured architecture for such data with the initial weights of this seed and purpose."""
    seed = derive(config.seed, purpose)
    return build(
        config.arch, classes=shapes.classes, channels=shapes.channels, width=config.width, seed=seed,
        image_size=shapes.image_size,
    )  # fmt: skip


def make_pair(config: TrialConfig, shapes: Shapes, device: torch.device | str = "cpu") -> MutualPair:
    """Make the configured peers for such data at their random start, with their fusion and loss."""
    networks = [network(config, shapes, f"peer {number}") for number in range(1, config.peers + 1)]
    named = {item.name: getattr(config, item.name) for item in fields(Objective) if item.name != "train_images"}
    pair = MutualPair(
        networks,
        Objective(shapes.train_images, **named),
        fusion=make_fusion(config, shapes, cast(Any, networks[0].feature_channels)),
        kernel=partial(KERNELS[config.kernel], **config.kernel_options),
        teacher=network(config, shapes, "teacher") if config.teacher != "none" else None,
        initial_sigma=config.initial_sigma if config.bayesian else 0.0,
        sigma_mode=config.sigma_mode,
        prior_mode=config.prior_mode,
        prior_mean=config.prior_mean,
    ).to(device)
    pair.scaled = True  # by whoever trains it, at its switch; what times or counts steps takes them as they are
    return pair


def make_fusion(config: TrialConfig, shapes: Shapes, channels: Sequence[int]) -> PeerFusion:
    """Make the configured fusion of blocks with so many channels.

    Raises: ConfigError for a block that there is not.
    """
    if max(config.blocks, default=0) >= len(channels):
        raise ConfigError(f"fusion_blocks = {shown(config.fusion_blocks)}: {config.arch} has {len(channels)} blocks")
    classes = shapes.classes if config.fusion_training in TASK_TRAINED else 0
    return FUSIONS[config.fusion](
        channels, config.fusion_dim, config.fusion_heads, derive(config.seed, "fusion"), config.peers, config.blocks,
        grid=config.fusion_grid, classes=classes,
    )  # fmt: skip


def learning_rate(config: TrialConfig, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch, a function of the absolute epoch alone [chosen: schedule].

    cosine: lr/2 (1 + cos(pi epoch/epochs)); step: divided by 10 at one half and at three quarters; constant.
    """
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if config.schedule == "step":
        return config.lr * 0.1 ** ((2 * epoch >= epochs) + (4 * epoch >= 3 * epochs))
    return config.lr


def stage_rate(config: TrialConfig, epoch: int) -> float:
    """Return a trial's learning rate in an epoch, before any warm-up: stage two goes on with stage one's, or restarts."""
    if not config.restarts:
        return learning_rate(config, epoch, config.epochs)
    if epoch < config.switch_epoch:
        return learning_rate(config, epoch, config.switch_epoch)
    return config.stage_two_lr_scale * learning_rate(config, epoch - config.switch_epoch, config.epochs - config.switch_epoch)


def weigh_prior(config: TrialConfig, pair: MutualPair, epoch: int) -> None:
    """Give the pair the prior's weight in an epoch, which in a stage two that restarts may be another."""
    now, scale = pair.weights.kl_weight, config.stage_two_kl_scale if config.restarts and epoch >= config.switch_epoch else 1.0
    if isinstance(now, Tensor):  # as compiled steps take it
        now.fill_(config.kl_weight * scale)
    else:
        pair.weights = pair.weights._replace(kl_weight=config.kl_weight * scale)


def warmup(config: TrialConfig, epochs: float, pretrained: bool) -> float:
    """Return the factor of a peer's learning rate after so many epochs, fractions included: it rises linearly from zero.

    pretrained: whether the peer started at pretrained means.
    """
    length = max(config.warmup_epochs, config.pretrained_warmup_epochs if pretrained else 0.0)
    if config.restarts and epochs > config.switch_epoch:
        start = length if config.switch_epoch == 0 else 0.0  # where stage two is the whole trial
        epochs, length = epochs - config.switch_epoch, max(config.stage_two_warmup_epochs, start)
    return min(1.0, epochs / length) if length else 1.0


def optimizer_of(config: TrialConfig, parameters: Iterable[Any], weight_decay: float) -> torch.optim.Optimizer:
    """Make the configured optimiser [chosen]: SGD with momentum, or AdamW with the momentum as its first beta."""
    if config.optimizer == "adamw":
        betas = (config.momentum, 0.999)
        return torch.optim.AdamW(parameters, lr=config.lr, betas=betas, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=weight_decay, fused=True)


def epoch_batches(
    config: TrialConfig, data: ImageData, epoch: int, purpose: str, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this rank's share of an epoch's batches, shuffled and augmented from the streams of (seed, purpose, epoch)."""
    count = len(data.train.labels)
    order = torch.randperm(count, generator=generator(config.seed, f"{purpose} order", epoch))
    augmentation = draw_augmentation(data, generator(config.seed, f"{purpose} augmentation", epoch))
    for images, labels in train_batches(
        data,
        batch_size=config.batch_size,
        order=order,
        augmentation=augmentation,
        rank=distributed.rank(),
        world=distributed.size(),
        device=device,
    ):
        yield images.contiguous(memory_format=predictive.layout(config)), labels


def step_inputs(
    config: TrialConfig, pair: MutualPair, data: ImageData, epoch: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Yield what each step of an epoch takes: this rank's images and labels, and every peer's noise.

    The noise is the same on every rank: the same weight samples per peer and step, whatever the number of ranks.
    """
    streams = [generator(config.seed, f"weights {number}", epoch, device) for number in range(1, len(pair.peers) + 1)]
    for images, labels in epoch_batches(config, data, epoch, "fit", device):
        yield images, labels, pair.draw_noise(streams)


def steps_per_epoch(config: TrialConfig, data: ImageData) -> int:
    """Count the full global batches in the training set.

    Raises: ConfigError when there is none, or when the ranks cannot share a batch evenly, at least two images each where the
    diversity terms act.
    """
    if config.batch_size % distributed.size():
        raise ConfigError(f"batch_size = {config.batch_size} cannot be shared evenly by {distributed.size()} workers")
    if config.diverse and config.batch_size // distributed.size() < 2:
        raise ConfigError(
            f"batch_size = {config.batch_size} leaves each of {distributed.size()} workers one image, and the feature term "
            "compares those of a batch: take fewer workers, or a larger batch"
        )
    steps = len(data.train.labels) // config.batch_size
    if steps == 0:
        raise ConfigError(f"batch_size = {config.batch_size} exceeds the {len(data.train.labels)} training images")
    return steps


def over_ranks(module: nn.Module, device: torch.device) -> nn.Module:
    """Return ``module`` with gradients averaged over ranks; itself in a world of one.

    Ranks keep their own buffers in a step.
    """
    if distributed.size() == 1:
        return module
    devices = [device] if device.type == "cuda" else None
    largest = max(value.numel() * value.element_size() for value in module.parameters())
    shared = DistributedDataParallel(
        module,
        device_ids=devices,
        gradient_as_bucket_view=True,
        bucket_cap_mb=largest / 2**20,  # a flat vector is a bucket: one peer's travels while the other's is computed
    )
    shared.broadcast_buffers = False  # as an argument it is deprecated, and what replaces it is not in every torch
    return shared


class Diverged(Exception):
    """A loss term, a weight or a prediction became infinite or not a number; the message says which and when."""


def check_finite(members: Mapping[str, Predictive], when: str) -> None:
    """Look at the predictions of every member, which all ranks have alike.

    Raises: Diverged for the first that is not finite.
    """
    for member, prediction in members.items():
        if not (prediction.probabilities.isfinite().all() and prediction.expected_entropy.isfinite().all()):
            raise Diverged(f"{when}: the predictions of {member} were not finite")


def make_optimizer(config: TrialConfig, pair: MutualPair) -> torch.optim.Optimizer:
    """Make the optimiser over every peer's means, its point estimates (all that is not Bayesian), every rho, the fusion.

    A group's ``scale`` is its factor of the learning rate, ``peer`` the peer's number (0: the fusion). Weight decay: of the
    means `mean_weight_decay`, since the prior regularises, and none of what has no prior; networks without noise have
    `weight_decay` of all their parameters, as in pretraining.
    """
    decays = (config.mean_weight_decay, 0.0) if config.bayesian else (config.weight_decay, config.weight_decay)
    groups: list[dict[str, Any]] = []
    for number, peer in enumerate(pair.peers, 1):
        for own, decay in zip(([peer.mean], list(peer.module.parameters())), decays, strict=True):
            groups.append({"params": own, "scale": 1.0, "peer": number, "weight_decay": decay})
    groups += [{"params": [peer.rho], "scale": config.rho_lr_scale, "peer": place} for place, peer in enumerate(pair.peers, 1)]
    groups += [{"params": list(pair.fusion.parameters()), "scale": config.fusion_lr_scale, "peer": 0}]
    return optimizer_of(config, groups, weight_decay=0.0)


def set_rates(config: TrialConfig, optimizer: torch.optim.Optimizer, epoch: int, done: float) -> None:
    """Give every group of `make_optimizer` its learning rate for a step of ``epoch``; done: the share of it that is over."""
    rate = stage_rate(config, epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"] * warmup(config, epoch + done, group["peer"] in config.pretrained_peers)


def let_fusion_learn(config: TrialConfig, pair: MutualPair, learns: bool) -> None:
    """Give the fusion's weights gradients, or take them: a frozen one never has any, one trained before stage two has then."""
    if config.fusion != "frozen":
        pair.fusion.requires_grad_(learns)


def train_epoch(
    config: TrialConfig, pair: MutualPair, optimizer: torch.optim.Optimizer, data: ImageData, epoch: int, diverse: bool,
    device: torch.device, after_step: Callable[[float], None] = lambda done: None, pair_step: PairStep | None = None,
) -> Tensor:  # fmt: skip
    """Train for one epoch; return the mean of each of the pair's terms over steps and ranks.

    Nothing is read from the device before the epoch's end.

    after_step: hears of every step, by the share of the epoch that is over; pair_step: in the place of `train_step`, with the
    optimiser's rates as they are then.

    Raises: Diverged, naming the first term that was not finite, or the weights after the last step, on every rank alike.
    """
    names = term_names(len(pair.peers))
    pair.train()
    pair_step = pair_step or partial(train_step, config, pair, pair, optimizer)
    steps = steps_per_epoch(config, data)
    total = torch.zeros(len(names), device=device)
    broken = torch.zeros(len(names), dtype=torch.bool, device=device)
    for step, (images, labels, noise) in enumerate(step_inputs(config, pair, data, epoch, device), 1):
        set_rates(config, optimizer, epoch, step / steps)
        terms = pair_step(images, labels, noise, diverse)
        broken |= ~terms.isfinite() & ~broken.any()
        total += terms
        after_step(step / steps)
    check_epoch(pair, epoch, broken)
    return distributed.mean_over_ranks(total / steps)


def check_epoch(pair: MutualPair, epoch: int, broken: Tensor) -> None:
    """Look at an epoch's terms and the weights after it. broken: which term was not finite, the first ones in time.

    Raises: Diverged as `train_epoch`.
    """
    names = term_names(len(pair.peers))
    weights = {name: value for name, value in pair.state_dict().items() if value.is_floating_point()}
    broken = torch.cat([broken, torch.stack([~value.isfinite().all() for value in weights.values()])])
    said = [f"loss term {name} was not finite" for name in names]
    said += [f"{name} was not finite after the last step" for name in weights]
    if bad := [words for words, flag in zip(said, distributed.any_rank(broken).tolist(), strict=True) if flag]:
        raise Diverged(f"epoch {epoch}: {bad[0]}")


def train_step(
    config: TrialConfig, model: nn.Module, pair: MutualPair, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor,
    noise: Sequence[Tensor], diverse: bool,
) -> Tensor:  # fmt: skip
    """Make one step: forward, backward, clipping of each peer's gradient and of the fusion's, optimiser.

    Returns the vector of the pair's terms. Nothing is read from the device, and nothing is kept from the step before.
    """
    optimizer.zero_grad()
    with predictive.precision(config, images.device):
        loss, terms = model(images, labels, noise, diverse)
    loss.backward()
    if config.clip_norm:
        for part in (*pair.peers, pair.fusion):
            nn.utils.clip_grad_norm_(part.parameters(), config.clip_norm)
    optimizer.step()
    return terms
