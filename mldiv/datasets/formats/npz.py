"""Read a file of arrays, as `numpy.savez` writes it: images and labels under stated keys."""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from mldiv.datasets.files import LAYOUTS, DataError, say_taken
from mldiv.datasets.formats import arrays

#: By split, what its images and its labels may be called. Of several the first pair that is whole is taken.
KEYS = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test"), ("val_images", "val_labels"), ("x_val", "y_val")),
}
LAYOUT = LAYOUTS["npz"]

#: By split, names of arrays.
Chosen = dict[str, tuple[str, ...]]


def read(root: Path | None, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training and test images with their labels.

    Raises: DataError, naming the file and the array.
    """
    path = _file(root)
    found = _arrays(path, partial(_keys, path))
    parts = []
    for split in ("train", "test"):
        (key, pixels), (label_key, classes) = found[split]
        images = arrays.images(pixels, f"{path}, {key}")
        parts.append((images, arrays.labels(classes, len(images), f"{path}, {label_key}", soft=True)))
    (train, train_labels), (test, test_labels) = parts
    if train.shape[1:] != test.shape[1:]:
        raise DataError(f"{path}: training images of {list(train.shape[1:])}, test images of {list(test.shape[1:])}")
    arrays.check_classes(train_labels, test_labels, str(path))
    return parts[0], parts[1]


def pictures(root: Path | None, size: int) -> Tensor:
    """Return the test images, or the file's only array; labels and training images need not be there.

    Raises: DataError, naming the file and the array.
    """
    path = _file(root)
    ((key, pixels),) = _arrays(path, partial(_picture_key, path))["test"]
    return arrays.images(pixels, f"{path}, {key}")


def check(root: Path | None) -> None:
    """Raise DataError for a file that is missing, damaged, or whose arrays do not belong together."""
    read(root, 0)


def taken(root: Path | None) -> str:
    """Say which array holds the test images, and which one is not used."""
    path = _file(root)
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        taken, _ = _keys(path, file.files)["test"]
        return say_taken(taken, [name for name, _ in KEYS["test"] if name in file.files and name != taken])


def _file(root: Path | None) -> Path:
    if root is None:
        raise DataError(f"--data-root is missing: it should name {LAYOUT}")
    if not root.is_file():
        raise DataError(f"{root}: no such file; --data-root should name {LAYOUT}")
    if not zipfile.is_zipfile(root):
        raise DataError(f"{root}: no .npz, or one that is cut; --data-root should name {LAYOUT}")
    return root


def _arrays(path: Path, choose: Callable[[list[str]], Chosen]) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Return by split the arrays that are chosen among the names of those that are there, each with its name."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {split: [(key, file[key]) for key in keys] for split, keys in choose(file.files).items()}
    except DataError:
        raise
    except Exception as error:  # numpy's and zipfile's are of a dozen kinds
        raise DataError(f"{path}: cannot be read as numpy's .npz ({' '.join(str(error).split())[:200]}); {LAYOUT}") from None


def _picture_key(path: Path, there: list[str]) -> Chosen:
    """Return what the test images are called, those with labels before others."""
    pairs = sorted(KEYS["test"], key=lambda pair: pair[1] not in there)
    found = [images for images, _ in pairs if images in there] or there[: len(there) == 1]
    if not found:
        raise DataError(f"{path}: neither test_images nor x_test, and not one array, but {', '.join(there)[:200] or 'none'}")
    return {"test": (found[0],)}


def _keys(path: Path, there: list[str]) -> Chosen:
    """Return what images and labels of each split are called in a file that holds arrays of these names."""
    found: Chosen = {}
    for split, pairs in KEYS.items():
        pair = max(pairs, key=lambda pair: sum(key in there for key in pair))
        if missing := [key for key in pair if key not in there]:
            raise DataError(
                f"{path}: no array {missing[0]}, it holds {', '.join(there)[:200] or 'none'}; --data-root names {LAYOUT}"
            )
        found[split] = pair
    return found
