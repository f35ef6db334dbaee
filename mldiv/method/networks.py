"""Plain torch networks that give logits and the features of their blocks. Add an architecture to MODELS."""

import difflib
from collections.abc import Callable

import torch
from torch import nn

from mldiv.method.architectures.cifar import BATCH, FILTER_RESPONSE, BatchNorm, CifarResNet, Norms, kaiming


def _cifar(n: int, norms: Norms = BATCH) -> Callable[..., nn.Module]:
    return lambda classes, channels, width, image_size: CifarResNet(n, classes, channels, width, norms)


def _resnet18(classes: int, channels: int, width: float, image_size: int) -> nn.Module:
    if width != 1:
        raise ValueError(f"width = {width}: resnet18 comes in width 1 only; resnet20, 32 and 56 take any")
    from mldiv.method.architectures.torchvision_networks import ResNet18  # torchvision takes two seconds to import

    module = ResNet18(classes, channels, image_size, BatchNorm)
    kaiming(module)
    return module


def _vit(classes: int, channels: int, width: float, image_size: int) -> nn.Module:
    from mldiv.method.architectures.torchvision_networks import SmallViT  # torchvision

    return SmallViT(classes, channels, width, image_size)


def build(name: str, *, classes: int, channels: int = 3, width: float = 1.0, seed: int, image_size: int = 32) -> nn.Module:
    """Build the named architecture with initial weights of ``seed``; torch's global random state is left as it was.

    image_size: side of the images in pixels. It fixes a transformer's patches and ResNet-18's stem; the other networks take
    any size with the same weights.

    Raises: ValueError for an unknown name (with the nearest), or a width or image size the architecture does not have.
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no architecture is called {name!r}, known: {', '.join(MODELS)}{hint}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](classes, channels, width, image_size)


#: Constructors (classes, channels, width, image_size). The module returns (logits, block features [batch,
#: channels, height, width] or [batch, channels, tokens]) and names the features' channels in ``feature_channels``; its method
#: ``channel_groups`` says which channels may change places (`alignment`).
MODELS: dict[str, Callable[[int, int, float, int], nn.Module]] = {
    "resnet8": _cifar(1),
    "resnet20": _cifar(3),
    "resnet32": _cifar(5),
    "resnet56": _cifar(9),
    "resnet8_frn": _cifar(1, FILTER_RESPONSE),
    "resnet20_frn": _cifar(3, FILTER_RESPONSE),
    "resnet18": _resnet18,
    "vit": _vit,
}
#: Those of the package, whatever is entered later.
STOCK = dict(MODELS)
