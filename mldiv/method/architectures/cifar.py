"""ResNets for small images, with batch or filter response normalisation."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mldiv.method.alignment import ChannelGroup, Channels, inner_group, read, written

Images = Float[Tensor, "batch channels height width"]
BlockFeatures = Float[Tensor, "batch features rows columns"]
Output = tuple[Float[Tensor, "batch classes"], tuple[Tensor, ...]]


#: Below every mean square of a channel's responses that is not zero.
SMALLEST_SQUARE = 1e-6


class FilterResponseNorm(nn.Module):
    r"""Divide each image's channel by its root mean square over space; scale and shift it. No image sees another one.

    .. math:: y = \gamma \frac{x}{\sqrt{\nu^2 + \epsilon}} + \beta, \quad \nu^2 = \frac{1}{hw} \sum_{ij} x_{ij}^2

    gamma -> weight; beta -> bias; epsilon -> SMALLEST_SQUARE, fixed. nu is computed in float32. Shapes: x, y [batch, channels,
    height, width]. References: Singh and Krishnan, Filter Response Normalization Layer (CVPR 2020), section 3.1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Images) -> Images:
        """Normalise every image's every channel."""
        squares = x.float().square().mean((2, 3), keepdim=True)
        return torch.addcmul(self.bias, x, (squares + SMALLEST_SQUARE).rsqrt() * self.weight).to(x.dtype)


class ThresholdedLinear(nn.Module):
    """Cut each channel off below its own learned threshold, ``max(y, tau)``, where a ReLU does below 0, tau's start.

    Shapes: [batch, channels, height, width]. References: Singh and Krishnan (CVPR 2020), section 3.2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, y: Images) -> Images:
        """Return the larger of both, element by element."""
        return torch.maximum(y, self.threshold.to(y.dtype))


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that does not count batches, an operation for each layer and step: only averages over all need it."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [batch, channels, height, width]; in training mode move the running statistics towards the batch's."""
        if not self.training or self.momentum is None:
            return super().forward(input)
        running = self.running_mean, self.running_var
        return functional.batch_norm(input, *running, self.weight, self.bias, True, self.momentum, self.eps)


class Norms(NamedTuple):
    """What a network does after its convolutions: a normalisation, of so many channels, and an activation."""

    normalize: Callable[[int], nn.Module]
    activate: Callable[[int], nn.Module]


#: Batch normalisation and ReLU.
BATCH = Norms(BatchNorm, lambda channels: nn.ReLU())

#: Filter response normalisation and its thresholded linear unit: no statistics of a batch, so none of other weights' samples.
FILTER_RESPONSE = Norms(FilterResponseNorm, ThresholdedLinear)


class CifarBlock(nn.Module):
    """Two 3x3 convolutions around an identity shortcut; where the shape changes, subsampled and padded with zeros."""

    def __init__(self, channels_in: int, channels: int, stride: int, norms: Norms) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = norms.normalize(channels)
        self.activation1 = norms.activate(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = norms.normalize(channels)
        self.activation2 = norms.activate(channels)
        self.stride, self.added = stride, channels - channels_in

    def forward(self, x: Images) -> BlockFeatures:
        """Add both convolutions to the shortcut."""
        out = self.activation1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.added:
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return self.activation2(out + x)


class CifarResNet(nn.Module):
    """ResNet-(6n+2) for small images: three stages of n blocks with 16, 32 and 64 channels times ``width``.

    Identity shortcuts without parameters ("option A"); names as in the public weights of that form, where normalisations are
    bn1 and bn2, whichever ``norms`` are taken. 269,722 parameters for n = 3, 10 classes and batch normalisation. References: He
    et al. (CVPR 2016), section 4.2.
    """

    def __init__(self, n: int, classes: int, channels: int = 3, width: float = 1.0, norms: Norms = BATCH) -> None:
        super().__init__()
        self.feature_channels = tuple(max(1, round(base * width)) for base in (16, 32, 64))
        first, second, third = self.feature_channels
        self.conv1 = nn.Conv2d(channels, first, 3, 1, 1, bias=False)
        self.bn1 = norms.normalize(first)
        self.activation1 = norms.activate(first)
        self.layer1 = self._stage(n, first, first, 1, norms)
        self.layer2 = self._stage(n, first, second, 2, norms)
        self.layer3 = self._stage(n, second, third, 2, norms)
        self.linear = nn.Linear(third, classes)
        kaiming(self)

    @staticmethod
    def _stage(n: int, channels_in: int, channels: int, stride: int, norms: Norms) -> nn.Sequential:
        blocks = [CifarBlock(channels_in, channels, stride, norms)]
        return nn.Sequential(*blocks, *(CifarBlock(channels, channels, 1, norms) for _ in range(n - 1)))

    def forward(self, x: Images) -> Output:
        """Return logits [batch, classes] and the three stages' outputs."""
        first = self.layer1(self.activation1(self.bn1(self.conv1(x))))
        second = self.layer2(first)
        third = self.layer3(second)
        return self.linear(third.mean((2, 3))), (first, second, third)

    def channel_groups(self) -> list[ChannelGroup]:
        """Group the channels that may change places: those inside each block, and those of the stream that a stage adds to it.

        A shortcut pads the stream with zeros on both sides, so a channel keeps its neighbours of the stage before.
        """
        stages = [[f"layer{stage}.{block}" for block in range(len(self.layer1))] for stage in (1, 2, 3)]
        groups = [inner_group(self, block) for stage in stages for block in stage]
        added: list[list[int]] = []
        streams = []
        for width in self.feature_channels:
            before = (width - sum(map(len, added))) // 2
            added = [[before + place for place in places] for places in added]
            added.append([place for place in range(width) if not any(place in places for places in added)])
            streams.append(added)
        return groups + [self._stream_group(stages, streams, stage) for stage in range(3) if streams[-1][stage]]

    def _stream_group(self, stages: list[list[str]], streams: list[list[list[int]]], born: int) -> ChannelGroup:
        """Group the stream's channels that a stage added, counted from 0. streams: by stage, where the channels of each lie."""
        entries: list[Channels] = []
        for stage in range(born, 3):
            writers = [f"{block}.{layer}" for block in stages[stage] for layer in ("conv2", "bn2", "activation2")]
            readers = [f"{block}.conv1" for block in stages[stage][stage > 0 :]]
            writers += ["conv1", "bn1", "activation1"] if stage == 0 else []
            readers += [f"{stages[stage + 1][0]}.conv1"] if stage < 2 else ["linear"]
            entries += written(self, writers, streams[stage][born], self.feature_channels[stage])
            entries += read(readers, streams[stage][born])
        return ChannelGroup(tuple(entries), Channels(f"layer{born + 1}", 1, tuple(streams[born][born])))


def kaiming(module: nn.Module) -> None:
    """Draw Kaiming normal weights, fan-out, for convolutions and linear layers; zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
