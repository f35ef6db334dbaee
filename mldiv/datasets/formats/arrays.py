"""Take images and labels from arrays, whichever file they came from; what cannot be used is said by the file's name."""

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from mldiv import soft_labels
from mldiv.datasets.files import DataError

#: Numbers of channels that images may have: grey, or red, green and blue.
CHANNELS = (1, 3)
#: Classes at most: records of predictions hold their numbers in 16 bits.
MOST_CLASSES = 2**15

Pixels = UInt8[Tensor, "images channels side side"]
Labels = Int64[Tensor, " images"]
Shares = Float32[Tensor, "images classes"]


def images(array: np.ndarray, where: str) -> Pixels:
    """Return images of bytes with their channels in front.

    array: uint8 [images, side, side], [images, side, side, channels] or [images, channels, side, side], 1 or 3 channels.

    Raises: DataError, beginning with ``where``, for any other.
    """
    if array.dtype != np.uint8:
        raise DataError(f"{where}: {array.dtype}, where uint8 is expected; (255 * images).round().astype('uint8') of [0, 1]")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in CHANNELS:
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in CHANNELS or not array.size:
        raise DataError(
            f"{where}: shape {list(array.shape)}, expected [images, side, side], or with 1 or 3 channels behind or in front"
        )
    if array.shape[2] != array.shape[3]:
        raise DataError(f"{where}: images of {array.shape[2]}x{array.shape[3]} pixels; pad or crop them to squares")
    return torch.from_numpy(np.array(array, order="C"))


def labels(array: np.ndarray, count: int | None, where: str, soft: bool = False) -> Labels | Shares:
    """Return one class number for each image, or its share of each class.

    count: of the images, None where any will do; soft: whether [images, classes] may be shares.

    Raises: DataError, beginning with ``where``, for what are no whole numbers from 0 on, or another number of them, and for
    shares that do not add up to 1.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    shares = soft and array.ndim == 2
    if not shares and (array.ndim != 1 or array.dtype.kind not in "iu"):
        more = " (or soft labels, [images, classes])" if soft else ""
        raise DataError(f"{where}: {array.dtype} of shape {list(array.shape)}, expected one whole number for each image{more}")
    if count is not None and len(array) != count:
        raise DataError(f"{where}: {len(array):,} labels of {count:,} images")
    if shares:
        return torch.from_numpy(soft_labels.normalised(array, where, DataError).astype(np.float32))
    if len(array) and not 0 <= array.min() <= array.max() < MOST_CLASSES:
        raise DataError(f"{where}: labels from {array.min()} to {array.max()}; number the classes from 0")
    return torch.from_numpy(array.astype(np.int64))


def classes_of(labels: Labels | Shares) -> Labels:
    """Return each image's class, of soft labels the one with the largest share."""
    return labels.argmax(-1) if labels.dim() == 2 else labels


def check_classes(train: Tensor, test: Tensor, where: str) -> None:
    """Raise DataError unless every class up to the largest has two training images, and test images are of these classes.

    train, test: labels, also soft ones, which share out every class.
    """
    counts = torch.bincount(classes_of(train), minlength=train.shape[1] if train.dim() == 2 else 0)
    if len(counts) < 2:
        raise DataError(f"{where}: {len(counts)} classes in the training labels, at least 2 are needed")
    few = int(counts.argmin())
    if counts[few] < 2:
        raise DataError(
            f"{where}: {int(counts[few])} training images of class {few}, at least two are needed: one of them validates; "
            f"the classes are numbered from 0 to {len(counts) - 1}"
        )
    if test.dim() == 2 and test.shape[1] != len(counts):
        raise DataError(f"{where}: test labels share out {test.shape[1]} classes, the training labels hold {len(counts)}")
    if int(classes_of(test).max()) >= len(counts):
        raise DataError(f"{where}: a test label is {int(test.max())}, the training labels end at {len(counts) - 1}")
