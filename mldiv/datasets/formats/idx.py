"""Read idx files, the form of MNIST and its relatives, packed by gzip as they are downloaded or unpacked."""

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from mldiv.datasets.files import LAYOUTS, DataError, contents, existing_folder, packed_or_not
from mldiv.datasets.formats import arrays

#: The training images, their labels, the test images, their labels.
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
HINT = f"it should hold {LAYOUTS['idx']}"

#: How a file of bytes begins, before the number of its dimensions.
MAGIC = b"\0\0\x08"


def read(root: Path | None, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training and test images with their labels.

    Raises: DataError, naming the file.
    """
    folder = existing_folder(root, HINT)
    paths = [packed_or_not(folder / name, HINT) for name in FILES]
    train, train_labels, test, test_labels = (parse(contents(path), str(path)) for path in paths)
    images = arrays.images(train, str(paths[0])), arrays.images(test, str(paths[2]))
    if images[0].shape[1:] != images[1].shape[1:]:
        raise DataError(f"{paths[2]}: images of another size than in {paths[0].name}")
    labels = [
        arrays.labels(part, len(of), str(path))
        for part, of, path in zip((train_labels, test_labels), images, (paths[1], paths[3]), strict=True)
    ]
    arrays.check_classes(labels[0], labels[1], str(folder))
    return (images[0], labels[0]), (images[1], labels[1])


def pictures(root: Path | None, size: int) -> Tensor:
    """Return the test images alone. Raises: DataError, naming the file."""
    path = packed_or_not(existing_folder(root, HINT) / FILES[2], HINT)
    return arrays.images(parse(contents(path), str(path)), str(path))


def check(root: Path | None) -> None:
    """Raise DataError for files that are missing, damaged or do not belong together."""
    read(root, 0)


def parse(data: bytes, where: str) -> np.ndarray:
    """Return the array of bytes in an idx file: 0, 0, 8, its number of dimensions, each as 4 bytes, the values.

    Raises: DataError, beginning with ``where``.
    """
    if len(data) < 4 or data[:3] != MAGIC or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{where}: no idx file of bytes, which begins with 0, 0, 8 and its number of dimensions")
    shape, start = np.frombuffer(data, ">u4", data[3], 4).tolist(), 4 + 4 * data[3]
    if len(data) != start + math.prod(shape):
        raise DataError(f"{where}: {len(data):,} bytes, an idx file of {shape} has {start + math.prod(shape):,}: cut short?")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
