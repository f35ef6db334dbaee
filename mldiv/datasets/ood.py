"""Bring images of another kind to a network's input: one that knows what it does not know is uncertain of them."""

import difflib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mldiv.datasets.sources import DATASETS, DataError, FolderImages
from mldiv.datasets.splits import ImageData, Split, decoded, resized
from mldiv.datasets.weather import grey

#: What may be asked for: nothing, patches of photographs, which come with scikit-learn, noise, or a data set's test images.
OOD = ("none", "photographs", "noise", *DATASETS)

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
#: Side of a photograph's patch; larger images get patches of their own size.
PATCH_PIXELS = 32

Pixels = UInt8[Tensor, "images channels height width"]


def names(ood: str) -> tuple[str, ...]:
    """Return the sets that a list with commas asks for, in its order; none for "none".

    Each is a name of OOD, or name@PLACE, a data set in a place of its own: below --data-root (beside it, where that is a file)
    unless it begins with a slash.
    """
    return () if ood == "none" else tuple(ood.split(","))


def label(name: str) -> str:
    """Return what a set is called in records and tables: its name, or the last folder of its place."""
    kind, _, place = name.partition("@")
    return Path(place).name or kind


def check_name(ood: str) -> str:
    """Return a list of sets as it is, if each is known and none is there twice; no file is looked at.

    Raises: DataError for an unknown name (with the nearest), a place of what has none, or two sets of one label.
    """
    seen: dict[str, str] = {}
    for name in names(ood):
        kind, at, place = name.partition("@")
        if kind not in OOD:
            close = difflib.get_close_matches(kind, OOD, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(f"ood = {name!r:.80}: expected one of {', '.join(OOD)}{hint}")
        if kind == "none":
            raise DataError(f"ood = {ood!r:.80}: none stands alone; leave it or the others out")
        if at and (kind not in DATASETS or not Path(place).name):
            raise DataError(f"ood = {name!r:.80}: expected a data set before the @ and its folder behind it")
        if label(name) in seen:
            raise DataError(f"ood = {ood!r:.80}: two are called {label(name)!r:.80}; leave out one")
        seen[label(name)] = name
    return ood


def check(ood: str, root: Path | None, data_name: str) -> None:
    """Look at all sets' files before any work starts. data_name: the data set that the networks are trained on.

    Raises: DataError as `check_name` does, for the training data's own name, for missing or damaged files.
    """
    for name in names(check_name(ood)):
        kind, folder = _placed(name, root)
        if kind == data_name and (DATASETS[kind].classes is not None or _same(folder, root)):
            raise DataError(
                f"ood = {name!r}: the networks are trained on {data_name}; take another data set, photographs, noise or none"
            )
        if kind == "photographs":
            for photograph in PHOTOGRAPHS:
                _photograph(photograph)
        elif kind in DATASETS:
            try:
                _check_files(kind, folder)
            except DataError as error:
                elsewhere = "" if "@" in name or folder is None else f"; {kind}@PLACE looks in a place of its own"
                raise DataError(f"ood = {name!r:.80}: {error}{elsewhere}") from None


def load_other(name: str, root: Path | None, *, channels: int, size: int, count: int) -> Pixels:
    """Load at most ``count`` images of one set, the first of a fixed permutation, with so many channels and pixels a side.

    A data set's test images are resized whole, bilinear with antialiasing; colours become grey by luma, grey levels equal
    red, green and blue. Photographs give non-overlapping patches: 520 for images of up to 32 pixels, 120 for 64. Noise gives
    ``count`` images of independent values, each level as likely as another.

    Raises: DataError for missing or damaged files, or when they give not one image.
    """
    stream = torch.Generator().manual_seed(0)
    if name == "noise" and count > 0:
        return torch.randint(256, (count, channels, size, size), generator=stream, dtype=torch.uint8)
    images = _patches(size) if name in ("photographs", "noise") else _test_images(name, root, size)
    order = torch.randperm(len(images), generator=stream)[:count]
    if len(order) == 0:
        raise DataError(f"ood = {name!r}: no image of {size} pixels to be had ({count} asked for)")
    return _fitted(decoded(images, order), channels, size)


def in_place_of_test(data: ImageData, name: str, root: Path | None) -> ImageData:
    """Replace the test split by one set's images, at most as many, as `load_other` gives them; all labels are 0.

    They are where the test images are, and normalised as the training images.
    """
    tested = data.test.images
    images = load_other(name, root, channels=data.channels, size=tested.shape[-1], count=len(data.test))
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    return replace(data, test=split.to(tested.device) if isinstance(tested, Tensor) else split)


@cache
def _photograph(name: str) -> UInt8[Tensor, "3 height width"]:
    from sklearn.datasets import load_sample_image  # scikit-learn takes a second to import

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


def _placed(name: str, root: Path | None) -> tuple[str, Path | None]:
    """A set's kind and the folder of its data."""
    kind, _, place = name.partition("@")
    below = root.parent if root is not None and root.is_file() else root
    return kind, (below or Path()) / place if place else root


def _same(folder: Path | None, root: Path | None) -> bool:
    return folder is None or root is None or folder.resolve() == root.resolve()


def _check_files(kind: str, folder: Path | None) -> None:
    """Look at a data set's files, of which test images are enough where its source can take them alone."""
    if (pictures := DATASETS[kind].pictures) is not None:
        pictures(folder, 0)
    else:
        DATASETS[kind].check(folder)


def _test_images(name: str, root: Path | None, size: int) -> Tensor | FolderImages:
    kind, folder = _placed(name, root)
    if (pictures := DATASETS[kind].pictures) is not None:
        return pictures(folder, size)
    DATASETS[kind].check(folder)
    return DATASETS[kind].read(folder, size)[1][0]


def _fitted(images: UInt8[Tensor, "images before rows columns"], channels: int, size: int) -> Pixels:
    """Give the images so many channels and pixels a side."""
    values = images.float()
    if channels == 1 and images.shape[1] == 3:
        values = grey(values)
    return resized(values, size).expand(-1, channels, -1, -1).contiguous()
