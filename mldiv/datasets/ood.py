"""Bring images of another kind to a network's input: one that knows what it does not know is uncertain of them."""

import difflib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from sklearn.datasets import load_sample_image
from torch import Tensor

from mldiv.datasets.sources import DATASETS, DataError, FolderImages
from mldiv.datasets.splits import ImageData, Split, resized

#: What may be asked for: nothing, patches of photographs, which come with scikit-learn, or a data set's test images.
OOD = ("none", "photographs", *DATASETS)

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
#: Side of a photograph's patch; larger images get patches of their own size.
PATCH_PIXELS = 32

#: Shares of red, green and blue in a grey level (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)

Pixels = UInt8[Tensor, "images channels height width"]


def check(name: str, root: Path | None, data_name: str) -> None:
    """Look at the files before any work starts. data_name: the data set that the networks are trained on.

    Raises: DataError for an unknown name (with the nearest), for the training data's own name, for missing or damaged files.
    """
    if name not in OOD:
        close = difflib.get_close_matches(name, OOD, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DataError(f"ood = {name!r}: expected one of {', '.join(OOD)}{hint}")
    if name == data_name:
        raise DataError(f"ood = {name!r}: the networks are trained on {name}; take another data set, photographs or none")
    if name == "photographs":
        for photograph in PHOTOGRAPHS:
            _photograph(photograph)
    elif name != "none":
        DATASETS[name].check(root)


def load_other(name: str, root: Path | None, *, channels: int, size: int, count: int) -> Pixels:
    """Load at most ``count`` images, the first of a fixed permutation, with so many channels and pixels a side.

    A data set's test images are resized whole, bilinear with antialiasing; colours become grey by luma, grey levels equal
    red, green and blue. Photographs give non-overlapping patches: 520 for images of up to 32 pixels, 120 for 64.

    Raises: DataError for missing or damaged files, or when there is not one image.
    """
    images = _patches(size) if name == "photographs" else _test_images(name, root, size)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    if len(order) == 0:
        raise DataError(f"ood = {name!r}: no image of {size} pixels to be had ({count} asked for)")
    return _fitted(_decoded(images, order), channels, size)


def as_split(name: str, root: Path | None, data: ImageData, count: int) -> Split:
    """Load images as `load_other` does, in the channels, size and place of ``data``'s test images; all labels are 0."""
    tested = data.test.images
    images = load_other(name, root, channels=data.channels, size=tested.shape[-1], count=count)
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    return split.to(tested.device) if isinstance(tested, Tensor) else split


def in_place_of_test(data: ImageData, name: str, root: Path | None) -> ImageData:
    """Replace the test split by images of another kind, at most as many, normalised as the training images are."""
    return replace(data, test=as_split(name, root, data, len(data.test)))


def _photograph(name: str) -> UInt8[Tensor, "3 height width"]:
    try:
        pixels = load_sample_image(name)
    except (OSError, AttributeError) as error:
        raise DataError(f"ood = 'photographs': scikit-learn's {name} cannot be read ({error}); install it anew") from None
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def _patches(size: int) -> Pixels:
    """Cut both photographs into non-overlapping squares from the upper left corner, row by row."""
    side = max(PATCH_PIXELS, size)
    parts = []
    for name in PHOTOGRAPHS:
        picture = _photograph(name)
        if side <= min(picture.shape[1:]):
            squares = picture.unfold(1, side, side).unfold(2, side, side)
            parts.append(squares.permute(1, 2, 0, 3, 4).flatten(0, 1))
    return torch.cat(parts) if parts else torch.empty(0, 3, side, side, dtype=torch.uint8)


def _test_images(name: str, root: Path | None, size: int) -> Tensor | FolderImages:
    source = DATASETS[name]
    source.check(root)
    return source.read(root, size)[1][0]


def _decoded(images: Tensor | FolderImages, order: Tensor) -> Pixels:
    if isinstance(images, Tensor):
        return images[order]
    chosen = FolderImages([images.paths[index] for index in order.tolist()], images.shape[-1])
    return torch.cat(list(chosen.decoded(list(torch.arange(len(chosen)).split(256)))))


def _fitted(images: UInt8[Tensor, "images before rows columns"], channels: int, size: int) -> Pixels:
    """Give the images so many channels and pixels a side."""
    values = images.float()
    if channels == 1 and images.shape[1] == 3:
        values = (values * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return resized(values, size).expand(-1, channels, -1, -1).contiguous()
