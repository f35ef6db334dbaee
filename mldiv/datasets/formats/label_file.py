"""Read labels to train with, other than those that a data set has: from noisy annotators, or of another question."""

from pathlib import Path

import numpy as np
from torch import Tensor

from mldiv.datasets.files import LABELS, DataError
from mldiv.datasets.formats import arrays
from mldiv.datasets.formats.arrays import Labels


def read(path: Path, count: int, classes: int) -> Labels:
    """Return the labels of ``count`` training images.

    Raises: DataError, naming the file and what it should hold.
    """
    try:
        found = np.asarray(np.load(path, allow_pickle=False)) if path.suffix == ".npy" else _numbers(path)
    except Exception as error:  # numpy's are of many kinds
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise DataError(f"--train-labels {path}: cannot be read ({why}); it should hold {LABELS}") from None
    labels = arrays.labels(found, count, f"--train-labels {path}")
    if len(labels) and int(labels.max()) >= classes:
        raise DataError(f"--train-labels {path}: a label is {int(labels.max())}, the data set has {classes} classes from 0 on")
    return labels


def _numbers(path: Path) -> np.ndarray:
    return np.array([int(word) for word in path.read_text(encoding="utf-8").replace(",", " ").split()], np.int64)


def describe(path: Path, taught: Tensor, own: Tensor) -> str:
    """Say how far the labels of the training images differ from the data set's own, and what keeps these."""
    share = float((taught != own).double().mean())
    return (
        f"trained with the labels of {path.name}, {share:.1%} of them not the data set's own, which validation, temperatures "
        "and test keep"
    )
