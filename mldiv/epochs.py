"""What every training loop here has in common: an epoch's batches, its learning rate, gradients over ranks."""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mldiv import world
from mldiv.config import ConfigError, TrialConfig
from mldiv.data import ImageData, draw_augmentation, load, train_batches
from mldiv.streams import generator


def learning_rate(config: TrialConfig, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch, a function of the absolute epoch alone [chosen: schedule].

    cosine: lr/2 (1 + cos(pi epoch/epochs)); step: divided by 10 at one half and at three quarters; constant.
    """
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if config.schedule == "step":
        return config.lr * 0.1 ** ((2 * epoch >= epochs) + (4 * epoch >= 3 * epochs))
    return config.lr


def optimizer_of(config: TrialConfig, parameters: Iterable[Any], weight_decay: float) -> torch.optim.Optimizer:
    """The configured optimiser [chosen]: SGD with momentum, or AdamW with the momentum as its first beta."""
    if config.optimizer == "adamw":
        betas = (config.momentum, 0.999)
        return torch.optim.AdamW(parameters, lr=config.lr, betas=betas, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=weight_decay, fused=True)


def epoch_batches(
    config: TrialConfig, data: ImageData, epoch: int, purpose: str, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of an epoch's batches, shuffled and augmented from the streams of (seed, purpose, epoch)."""
    count = len(data.train.labels)
    order = torch.randperm(count, generator=generator(config.seed, f"{purpose} order", epoch))
    augmentation = draw_augmentation(data, generator(config.seed, f"{purpose} augmentation", epoch))
    for images, labels in train_batches(
        data,
        batch_size=config.batch_size,
        order=order,
        augmentation=augmentation,
        rank=world.rank(),
        world=world.size(),
        device=device,
    ):
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        yield images, labels


def steps_per_epoch(config: TrialConfig, data: ImageData) -> int:
    """Full global batches in the training set.

    Raises: ConfigError when there is none, or when the ranks cannot share a batch evenly.
    """
    if config.batch_size % world.size():
        raise ConfigError(f"batch_size = {config.batch_size} cannot be shared evenly by {world.size()} workers")
    steps = len(data.train.labels) // config.batch_size
    if steps == 0:
        raise ConfigError(f"batch_size = {config.batch_size} exceeds the {len(data.train.labels)} training images")
    return steps


def over_ranks(module: nn.Module, device: torch.device) -> nn.Module:
    """``module`` with gradients averaged over ranks; itself in a world of one. Ranks keep their own buffers in a step."""
    if world.size() == 1:
        return module
    devices = [device] if device.type == "cuda" else None
    largest = max(value.numel() * value.element_size() for value in module.parameters())
    return DistributedDataParallel(
        module,
        device_ids=devices,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        bucket_cap_mb=largest / 2**20,  # a flat vector is a bucket: one peer's travels while the other's is computed
    )


def dataset(config: TrialConfig) -> ImageData:
    """The trial's data; kept between trials of one process that ask for the same.

    Raises: DataError, naming the file and how to get it.
    """
    return _dataset(
        config.data,
        Path(config.data_root) if config.data_root else None,
        seed=config.split_seed,
        validation_fraction=config.validation_fraction,
        train_size=config.train_size,
        validation_size=config.validation_size,
        test_size=config.test_size,
        test_split=config.test_split,
        image_size=config.image_size,
    )


_dataset = lru_cache(maxsize=1)(load)
