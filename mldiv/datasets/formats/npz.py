"""Read a file of arrays, as `numpy.savez` writes it: images and labels under stated keys."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from torch import Tensor

from mldiv.datasets.files import LAYOUTS, DataError, say_taken
from mldiv.datasets.formats import arrays

#: Names that each array may have. Where the file holds several, the first is taken.
KEYS = {
    "train_images": ("train_images", "x_train"), "train_labels": ("train_labels", "y_train"),
    "test_images": ("test_images", "x_test", "val_images", "x_val"),
    "test_labels": ("test_labels", "y_test", "val_labels", "y_val"),
}  # fmt: skip
LAYOUT = LAYOUTS["npz"]


def read(root: Path | None, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training and test images with their labels.

    Raises: DataError, naming the file and the array.
    """
    path = _file(root)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = {name: (key, file[key]) for name, key in _keys(path, file.files).items()}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, TypeError, AttributeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as numpy's .npz ({' '.join(str(error).split())[:200]}); {LAYOUT}") from None
    parts = []
    for split in ("train", "test"):
        (key, pixels), (label_key, classes) = found[f"{split}_images"], found[f"{split}_labels"]
        images = arrays.images(pixels, f"{path}, {key}")
        parts.append((images, arrays.labels(classes, len(images), f"{path}, {label_key}", soft=True)))
    (train, train_labels), (test, test_labels) = parts
    if train.shape[1:] != test.shape[1:]:
        raise DataError(f"{path}: training images of {list(train.shape[1:])}, test images of {list(test.shape[1:])}")
    arrays.check_classes(train_labels, test_labels, str(path))
    return parts[0], parts[1]


def check(root: Path | None) -> None:
    """Raise DataError for a file that is missing, damaged, or whose arrays do not belong together."""
    read(root, 0)


def taken(root: Path | None) -> str:
    """Say which array holds the test images, and which one is not used."""
    with _file(root).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        found = [name for name in KEYS["test_images"] if name in file.files]
    return say_taken(found[0], found[1:])


def _file(root: Path | None) -> Path:
    if root is None:
        raise DataError(f"--data-root is missing: it should name {LAYOUT}")
    if not root.is_file():
        raise DataError(f"{root}: no such file; --data-root should name {LAYOUT}")
    return root


def _keys(path: Path, there: list[str]) -> dict[str, str]:
    """Return what each array is called in a file that holds arrays of these names."""
    found = {name: next((key for key in keys if key in there), None) for name, keys in KEYS.items()}
    if missing := [name for name, key in found.items() if key is None]:
        raise DataError(
            f"{path}: no array {missing[0]}, it holds {', '.join(there)[:200] or 'none'}; --data-root names {LAYOUT}"
        )
    return {name: key for name, key in found.items() if key is not None}
