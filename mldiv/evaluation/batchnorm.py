"""Estimate batch norm's statistics anew for each weight sample: those of training are a mixture over other samples."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mldiv.config import TrialConfig
from mldiv.datasets.splits import ImageData, draw_augmentation, train_batches
from mldiv.method.posterior import GaussianPosterior
from mldiv.seeding import generator

#: A module's running means and variances, by their names in it.
Statistics = dict[str, Tensor]


def estimate(
    peer: GaussianPosterior, weights: Tensor, batches: Iterable[Tensor], precision: torch.autocast
) -> list[Statistics]:
    """Estimate for each of the weight samples [samples, weights] all batch norms' statistics: averages over ``batches``.

    As `torch.optim.swa_utils.update_bn` does, in training mode and in the order of the layers; but the peer stays as it is.
    Nothing is estimated of a network without batch norm.
    """
    normed = {name: layer for name, layer in peer.module.named_modules() if isinstance(layer, _BatchNorm)}
    layers = {name: layer for name, layer in normed.items() if layer.running_mean is not None}
    names = [f"{name}.{kind}" for name in layers for kind in ("running_mean", "running_var", "num_batches_tracked")]
    own = dict(peer.module.named_buffers())
    found = [{name: torch.zeros_like(own[name]) for name in names} for _ in weights]
    if layers:
        with _cumulative(peer, list(layers.values())), torch.no_grad(), precision:
            for images in batches:
                for flat, buffers in zip(weights, found, strict=True):
                    peer(images, weights=flat, buffers=buffers)
    return [{name: value for name, value in each.items() if value.is_floating_point()} for each in found]


@contextmanager
def _cumulative(peer: GaussianPosterior, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let the layers count all batches alike, in training mode; afterwards all is as before."""
    was_training = {module: module.training for module in peer.modules()}
    momenta = [layer.momentum for layer in layers]
    peer.train()
    for layer in layers:
        layer.momentum = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in was_training.items():
            module.training = training


def batches(config: TrialConfig, data: ImageData, epoch: int, device: torch.device) -> Iterator[Tensor]:
    """Yield the images of `batchnorm_batches` training batches, shuffled and augmented, the same on every rank."""
    order = torch.randperm(len(data.train), generator=generator(config.seed, "batchnorm order", epoch))
    augmentation = draw_augmentation(data, generator(config.seed, "batchnorm augmentation", epoch))
    found = train_batches(data, batch_size=config.batch_size, order=order, augmentation=augmentation, device=device)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    for images, _ in islice(found, config.batchnorm_batches):
        yield images.contiguous(memory_format=layout)
