"""Read a data set that the library `datasets` of Hugging Face has saved to disk; the library is the extra [huggingface]."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mldiv.datasets.files import LAYOUTS, DataError, existing_folder, say_taken
from mldiv.datasets.formats import arrays
from mldiv.datasets.formats.arrays import Labels, Pixels
from mldiv.datasets.image_folder import fitting, to_mode

#: Splits that may be the test images; the first that is there is taken.
TESTED = ("test", "validation", "valid", "val")
#: Names of columns that are taken before others of their kind.
IMAGES, LABELS = ("image", "img"), ("label", "labels")
HINT = f"it should hold {LAYOUTS['huggingface']}"
#: Modes of Pillow that are grey.
GREY = frozenset({"1", "L"})


def read(root: Path | None, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training and test images with their labels; images are decoded all at once and kept in memory.

    size: shorter side, the rest is cropped from the center; 0: as they are, if all are squares of one size.

    Raises: DataError, naming the folder, the split and the row.
    """
    found = _splits(root)
    labels = _labels(root, found)
    decoded = [_decoded(part, size, f"{root}, {name}") for name, part in found.items()]
    channels = max(images.shape[1] for images in decoded)
    if not size and len(sides := {images.shape[2:] for images in decoded}) > 1:
        raise DataError(f"{root}: images of different sizes, {sorted(sides)}; --set image_size=N makes them equal")
    train, test = (images.expand(-1, channels, -1, -1).contiguous() for images in decoded)
    return (train, labels[0]), (test, labels[1])


def check(root: Path | None) -> None:
    """Look at splits, columns and labels, without decoding an image. Raises: DataError, naming the folder and what is wrong."""
    found = _splits(root)
    for name, part in found.items():
        _column(part, IMAGES, "Image", f"{root}, {name}")
    _labels(root, found)


def taken(root: Path | None) -> str:
    """Say which split holds the test images, which are not used, and which column holds the labels."""
    found = _splits(root)
    _, tested = found
    said = say_taken(f"split {tested}", sorted(set(_saved(root)) - set(found)))
    return f"{said}; labels from column {_label_column(found[tested], f'{root}, {tested}')}"


def _saved(root: Path | None) -> Any:
    """What lies in the folder, by the library."""
    folder = existing_folder(root, HINT)
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise DataError(
            f"{folder}: Hugging Face's datasets reads it ({error}): pip install datasets (the extra mldiv[huggingface])"
        ) from None
    try:
        return load_from_disk(str(folder))
    except Exception as error:  # the library's own are of a dozen kinds
        raise DataError(f"{folder}: cannot be loaded ({' '.join(str(error).split())[:200]}); {HINT}") from None


def _splits(root: Path | None) -> dict[str, Any]:
    """The training split and the one that is tested, by name."""
    found = _saved(root)
    if not isinstance(found, dict):
        raise DataError(f"{root}: one data set without splits; data.train_test_split(0.2).save_to_disk(...) makes them; {HINT}")
    tested = next((name for name in TESTED if name in found), None)
    if "train" not in found or tested is None:
        raise DataError(f"{root}: no split {'test' if 'train' in found else 'train'}, only {', '.join(found)}; {HINT}")
    return {"train": found["train"], tested: found[tested]}


def _column(part: Any, wanted: tuple[str, ...], kind: str, where: str) -> str:
    """The column of a kind, as the library calls it; of several the one with a usual name."""
    names = [name for name, feature in part.features.items() if type(feature).__name__ == kind]
    named = [name for name in wanted if name in names] or names
    if len(named) != 1:
        said = f"several columns of {wanted[0]}s, {', '.join(names)}" if names else f"no column of {wanted[0]}s"
        raise DataError(f"{where}: {said} among {', '.join(part.features)}; call one {wanted[0]!r} by rename_column")
    return named[0]


def _labels(root: Path | None, found: dict[str, Any]) -> list[Labels]:
    """The labels of both splits. Raises: DataError, also where the two number the classes differently."""
    columns = {name: _label_column(part, f"{root}, {name}") for name, part in found.items()}
    named = [getattr(part.features[columns[name]], "names", None) or [] for name, part in found.items()]
    for number, (trained, tested) in enumerate(zip(*named, strict=False)):
        if trained != tested:
            raise DataError(
                f"{root}: class {number} is {trained!r} in split train and {tested!r} in split {list(found)[1]}; "
                "align_labels_with_mapping numbers both alike"
            )
    labels = [_values(part, columns[name], f"{root}, {name}") for name, part in found.items()]
    arrays.check_classes(labels[0], labels[1], str(root))
    return labels


def _label_column(part: Any, where: str) -> str:
    """The column of labels: one of class labels, or of whole numbers that is called so."""
    called = next((name for name in LABELS if name in part.features), None)
    if called is None:
        return _column(part, LABELS, "ClassLabel", where)
    feature = part.features[called]
    if type(feature).__name__ != "ClassLabel" and "int" not in str(getattr(feature, "dtype", "")):
        raise DataError(
            f"{where}, {called}: no column of class labels or whole numbers; class_encode_column({called!r}) makes it one"
        )
    return called


def _values(part: Any, column: str, where: str) -> Labels:
    values = part.select_columns([column]).with_format("numpy")[:][column]
    if values.dtype.kind not in "iu":
        raise DataError(f"{where}, {column}: rows without a label; leave them out by filter")
    return arrays.labels(values, len(part), f"{where}, {column}")


def _decoded(part: Any, size: int, where: str) -> Pixels:
    """All images of a split, uint8: grey where all are."""
    column = _column(part, IMAGES, "Image", where)
    transform, modes = fitting(size), set()
    rows: list[Tensor] = []
    for row, image in enumerate(_pictures(part, column, where)):
        modes.add(image.mode)
        try:
            pixels = transform(to_mode(image, "RGB"))
        except ValueError as error:
            raise DataError(f"{where}, row {row}: {error}; map the column to pictures of 8 bits") from None
        if not size and not pixels.shape[1] == pixels.shape[2] == (rows or [pixels])[0].shape[1]:
            raise DataError(f"{where}, row {row}: {pixels.shape[2]}x{pixels.shape[1]} pixels; --set image_size=N makes squares")
        rows.append(pixels)
    images = torch.stack(rows)
    return images[:, :1] if modes <= GREY else images


def _pictures(part: Any, column: str, where: str) -> Any:
    """Yield a split's images one by one, decoded by the library."""
    chosen = part.select_columns([column]).with_format(None)
    for row in range(len(chosen)):
        try:
            yield chosen[row][column].copy()
        except Exception as error:  # whatever Pillow or the library find wrong
            raise DataError(f"{where}, row {row}: no readable image ({' '.join(str(error).split())[:200]})") from None
