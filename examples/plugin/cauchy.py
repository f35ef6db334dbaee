"""A kernel, a network, a data set and a metric of one's own: each a line in the registry that a newcomer would look for."""

from typing import Annotated

import numpy as np
import torch
from torch import nn

from mldiv.datasets.sources import DATASETS, Source
from mldiv.evaluation.metrics import METRICS
from mldiv.method.kernels import KERNELS, Range
from mldiv.method.networks import MODELS

Tail = Annotated[float, Range(0.1, 10, "power of the cauchy kernel: the smaller, the heavier its tails", searched=(0.5, 4))]


def cauchy(a, b, *, width=1.0, tail: Tail = 1.0):
    """Heavier tails than rbf: 1 / (1 + d^2 / s^2)^t, s the mean distance times `kernel_width`, t `kernel_tail`."""
    distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    scale = width * (distances.detach().mean() + 1e-12)
    return (1 + (distances / scale).square()) ** -tail


class TwoLayers(nn.Module):
    """Two convolutions and a linear layer; a network returns its logits and the features of its blocks."""

    def __init__(self, classes, channels, width, image_size):
        super().__init__()
        self.feature_channels = tuple(max(1, round(count * width)) for count in (16, 32))
        first, second = self.feature_channels
        self.conv1 = nn.Conv2d(channels, first, 3, 1, 1)
        self.conv2 = nn.Conv2d(first, second, 3, 2, 1)
        self.linear = nn.Linear(second, classes)

    def forward(self, images):
        first = self.conv1(images).relu()
        second = self.conv2(first).relu()
        return self.linear(second.mean((2, 3))), (first, second)


def stripes(root, size):
    """Noisy stripes, upright or flat: (training images, labels), (test images, labels)."""

    def draw(count, seed):
        stream = np.random.default_rng(seed)
        labels = np.arange(count) % 2
        wave = 127 * (np.arange(size) % 2)
        images = np.where(labels[:, None, None] == 1, wave[None, :, None], wave[None, None, :])
        images = np.clip(images + stream.normal(64, 40, (count, size, size)), 0, 255).astype(np.uint8)
        return torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64))

    return draw(400, 0), draw(200, 1)


def top2(predictive, labels):
    """The share of images whose label is among the two most probable classes."""
    best = predictive.probabilities.topk(min(2, predictive.probabilities.shape[-1])).indices
    return (best == labels[:, None]).any(-1).double().mean()


KERNELS["cauchy"] = cauchy
MODELS["two_layers"] = TwoLayers
DATASETS["stripes"] = Source(stripes, check=lambda root: None, classes=2, size=8, padding=1, flip=False)
METRICS["top2"] = top2
