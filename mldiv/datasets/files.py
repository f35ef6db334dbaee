"""Say what a data set's files should be, and check that they are there, whole, and those that were published; without torch."""

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

#: How the name of a file packed by gzip ends.
PACKED = ".gz"

#: By data set, what --data-root should hold, or be.
LAYOUTS: dict[str, str] = {
    "digits": "none, it comes with scikit-learn",
    "fashion_mnist": "FashionMNIST/raw with its four idx files, or these files themselves, as they are or with .gz",
    "cifar10": "cifar-10-batches-bin or cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "image_folder": "train/<class>/* and test/<class>/* (or val/<class>/*), JPEG or PNG files, the same classes in both",
    "idx": (
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, each as it is or "
        "with .gz"
    ),
    "npz": (
        "a file NAME.npz with the arrays train_images, train_labels, test_images and test_labels (or x_train and so on; val in "
        "place of test): uint8 [images, side, side] or with 1 or 3 channels behind or in front, and whole numbers from 0 on, "
        "or [images, classes], soft labels to score by"
    ),
    "huggingface": (
        "what save_to_disk of Hugging Face's datasets wrote: the splits train and test (or validation), with a column of "
        "images and one of labels"
    ),
}

#: What a file of other labels to train with should hold.
LABELS = "a whole number for each training image, in the data set's order: .npy, or text with spaces, commas or lines between"


class DataError(ValueError):
    """Data that is missing or damaged; the message says which file, what was expected and how to get it."""


def layouts() -> str:
    """Return what --data-root should hold, or be, for each data set, in a line."""
    return "; ".join(f"{name}: {layout}" for name, layout in LAYOUTS.items())


def existing_folder(root: Path | None, hint: str) -> Path:
    """Return the data's folder.

    hint: what it should hold.

    Raises: DataError when none is named, or it is no folder.
    """
    if root is None:
        raise DataError(f"--data-root is missing: {hint}")
    if not root.exists():
        raise DataError(f"{root}: no such folder; {hint}")
    if not root.is_dir():
        raise DataError(f"{root}: a file, where a folder was expected; {hint}")
    return root


def check_file(path: Path, size: int | None, md5: str, hint: str) -> None:
    """Compare a file's size in bytes, where that is known, and its md5, unpacked, with the published ones.

    Raises: DataError when it is missing or another.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; {hint}")
    data = contents(path)
    if size is not None and len(data) != size:
        raise DataError(f"{path}: {len(data):,} bytes where {size:,} were expected, truncated or not this data; {hint}")
    if (found := hashlib.md5(data, usedforsecurity=False).hexdigest()) != md5:
        raise DataError(f"{path}: its md5 is {found}, expected {md5}: damaged or not this data; {hint}")


def packed_or_not(path: Path, hint: str) -> Path:
    """Return the file, or the one packed by gzip beside it. Raises: DataError where there is neither."""
    found = next((file for file in (path, path.with_name(path.name + PACKED)) if file.is_file()), None)
    if found is None:
        raise DataError(f"{path}: no such file, nor one with {PACKED}; {hint}")
    return found


def contents(path: Path) -> bytes:
    """Return a file's bytes, unpacked where it is packed by gzip. Raises: DataError where it cannot be read."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == PACKED else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}): cut short, or not what its name says; fetch it again") from None


def content_hash(path: Path) -> str:
    """Return the first 16 hex digits of SHA-256 over a file. Raises: DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def check_hash(path: Path, expected: str) -> None:
    """Raise DataError where a file's contents are not those that a trial's identity names."""
    if (found := content_hash(path)) != expected:
        raise DataError(f"{path}: its contents have changed (hash {found}, the trial's is {expected}): put back the old ones")


def say_taken(what: str, unused: Sequence[str]) -> str:
    """Say where the test images are from, and what lies beside it unused."""
    return f"test images from {what}" + (f", {' and '.join(unused)} not used" if unused else "")
