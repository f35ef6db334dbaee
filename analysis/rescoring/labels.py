"""Read labels of the test images from a file: a class, or soft, a share of each class, per image in the images' order."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mldiv import soft_labels
from mldiv.records.checked_files import RecordError
from mldiv.records.contents import TrialRecord

#: Columns of a table, or names in an .npz, that are no labels: the images' numbers from 0, and of which images the labels are.
IMAGE, FINGERPRINT = "image", "fingerprint"
#: What pandas calls a first column without a name: the index of a table that was written with it.
UNNAMED = "Unnamed: 0"
#: What a record says of its test images.
OF_DATA = ("test", "classes", "test_fingerprint")


@dataclass(frozen=True)
class Labels:
    """Labels of test images.

    name: of their file; values: classes from 0 [images], or soft [images, classes]; fingerprint: of the test images that the
    file says they are of, None where it does not.
    """

    name: str
    values: np.ndarray
    fingerprint: str | None = None

    @property
    def soft(self) -> bool:
        """Whether each image has a share of each class."""
        return self.values.ndim == 2

    @property
    def classes(self) -> np.ndarray:
        """The class of each image, of soft labels the one with the largest share, [images]."""
        return self.values.argmax(1) if self.soft else self.values

    def shares(self, classes: int) -> np.ndarray:
        """Return each image's shares of the classes, which of a hard label are 0 and 1, [images, classes]."""
        return self.values if self.soft else np.eye(classes)[self.values]

    def check(self, record: TrialRecord) -> None:
        """Compare the labels with the test images of a trial.

        Raises: RecordError, naming file and fault, for another number of images or classes, or other images.
        """
        images, classes, there = (record.data[name] for name in OF_DATA)
        if len(self.values) != images:
            cut = " (a cut of the data set's: label those, in their order)" if record.config.get("test_size") else ""
            raise RecordError(f"{self.name}: labels of {len(self.values):,} images, there are {images:,} test images{cut}")
        if self.soft and self.values.shape[1] != classes:
            raise RecordError(f"{self.name}: shares of {self.values.shape[1]} classes, where the data have {classes}")
        if not self.soft and self.values.max() >= classes:
            image = int(self.values.argmax())
            raise RecordError(f"{self.name}: image {image} has label {self.values[image]}: expected 0 to {classes - 1}")
        if self.fingerprint not in (None, there):
            raise RecordError(
                f"{self.name}: labels of the test images {self.fingerprint}, where the study's are {there} (test_fingerprint "
                "in trial.json): they may be others, or in another order"
            )


def read(path: Path) -> Labels:
    """Read labels from .npy, .npz, .csv or .parquet.

    .npy: an array; .npz: ``labels``, and ``fingerprint`` where it is known; tables: a column of classes, or one for each class
    with its share, and ``image`` and ``fingerprint`` where they are known.

    Raises: RecordError, naming the file and what is wrong with it.
    """
    if (reader := READERS.get(path.suffix.lower())) is None:
        raise RecordError(f"{path}: labels come in {', '.join(READERS)}")
    try:
        values, fingerprint = reader(path)
    except RecordError:
        raise
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # numpy's, pandas' and pyarrow's for what is no such file are of many kinds
        raise RecordError(f"{path}: cannot be read ({type(error).__name__}: {error!s:.80})") from None
    return Labels(path.name, _checked(path.name, values), fingerprint)


def _checked(name: str, values: np.ndarray) -> np.ndarray:
    """Return labels as int64 [images], or float64 [images, classes] that add up to 1. Raises: RecordError."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (1, 2) or not values.size:
        raise RecordError(f"{name}: an array of shape {values.shape}: expected [images], or [images, classes] of soft labels")
    if values.ndim == 2:
        return soft_labels.normalised(values, name, RecordError)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or values.min() < 0:
        raise RecordError(f"{name}: labels hold what is no number, not finite, or negative")
    if (values != np.floor(values)).any():
        raise RecordError(f"{name}: a label is no whole number: soft labels are [images, classes]")
    return values.astype(np.int64)


def _npz(path: Path) -> tuple[np.ndarray, str | None]:
    with np.load(path, allow_pickle=False) as held:
        if "labels" not in held:
            raise RecordError(f"{path.name}: holds {', '.join(held) or 'nothing'}, and no labels")
        return held["labels"], str(held[FINGERPRINT]) if FINGERPRINT in held else None


def _csv(path: Path) -> tuple[np.ndarray, str | None]:
    with path.open(newline="", encoding="utf-8") as file:
        first = next(csv.reader(file), [])
    headless = bool(first) and all(map(_is_number, first)) and not (len(first) > 1 and _classes(first))
    return _columns(path, pd.read_csv(path, header=None if headless else 0))


def _columns(path: Path, table: pd.DataFrame) -> tuple[np.ndarray, str | None]:
    """Return a table's labels in the images' order, and the one fingerprint that it names."""
    table = table.rename(columns=str)
    fingerprints = set(table.pop(FINGERPRINT).astype(str)) if FINGERPRINT in table else {None}
    if len(fingerprints) > 1:
        raise RecordError(f"{path.name}: names several fingerprints")
    if IMAGE in table:
        table = table.sort_values(IMAGE, kind="stable")
        if (table.pop(IMAGE).to_numpy() != np.arange(len(table))).any():
            raise RecordError(f"{path.name}: {IMAGE} is not every number from 0 to {len(table) - 1}, once each")
    if UNNAMED in table:
        raise RecordError(
            f"{path.name}: its first column has no name: leave it out, or call it {IMAGE} if it counts the images"
        )
    numbers = [name.removeprefix(name.rstrip("0123456789")) for name in map(str, table)]
    if len(numbers) > 1 and _classes(numbers):
        table = table.iloc[:, np.argsort([int(number) for number in numbers])]
    return table.to_numpy(), fingerprints.pop()


def _classes(names: Sequence[str]) -> bool:
    """Whether names are the numbers of classes, from 0 or 1, in whatever order."""
    numbers = sorted(int(name) for name in names if name.isdecimal())
    return numbers in (list(range(len(names))), list(range(1, len(names) + 1)))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


READERS: dict[str, Callable[[Path], tuple[np.ndarray, str | None]]] = {
    ".npy": lambda path: (np.load(path, allow_pickle=False), None),
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": lambda path: _columns(path, pd.read_parquet(path)),
}
