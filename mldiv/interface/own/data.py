"""One's own images and labels as a data set: arrays, batches of a loader, items of a torch data set."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from mldiv.config import ConfigError, TrialConfig
from mldiv.datasets.files import DataError
from mldiv.datasets.formats import arrays
from mldiv.datasets.sources import Source
from mldiv.datasets.splits import ImageData, load
from mldiv.interface.given import whole
from mldiv.interface.images import are_pictures, as_bytes
from mldiv.settings.setting import shown
from mldiv.training.worker_cache import cut_of

#: (images, labels); an iterable of such batches, as a DataLoader is; or a torch data set of single images and labels.
Data = tuple[Any, Any] | Iterable[tuple[Any, Any]] | Dataset


def own_data(
    config: TrialConfig, data: Data, test: Data | None, *, names: Iterable[str] | None, padding: int | None, flip: bool,
    layout: str | None,
) -> ImageData:  # fmt: skip
    """Make a data set of one's own images, split as the configuration says. names: of the classes.

    Raises: DataError for images or labels that cannot be; ConfigError for a padding that leaves nothing of an image.
    """
    images, labels = _together(data, config.image_size, layout)
    channels, size = images.shape[1], images.shape[-1]
    if test is not None:
        tested, theirs = _together(test, config.image_size or size, layout, channels)
    else:
        tested, theirs = images[:0], labels[:0]
    try:
        names = None if names is None else tuple(map(str, names))
    except TypeError:
        raise DataError(f"names = {shown(names)}: expected the classes' names in the order of their numbers") from None
    counts = [part.shape[1] if part.dim() == 2 else int(part.max()) + 1 for part in (labels, theirs) if len(part)]
    classes = len(names) if names is not None else max(counts)
    if max(counts) > classes:
        raise DataError(f"labels go up to {max(counts) - 1}, and {classes} classes are named: they are numbered from 0 on")
    _check_classes(labels, theirs, classes, names is not None)
    shift = size // 8 if padding is None else whole("padding", padding, 0)
    if shift >= size:
        raise ConfigError(f"padding = {padding}: shifts images of {size} pixels a side out of sight")
    if any(part.dim() == 2 and part.shape[1] != classes for part in (labels, theirs)):
        raise DataError(f"soft labels share out {min(counts)} classes, there are {classes}")
    source = Source(
        lambda root, size: ((images, labels), (tested, theirs)), lambda root: None, classes, size,
        padding=shift, flip=flip, names=None if names is None else lambda root: names,
    )  # fmt: skip
    return load(config.data, None, source=source, **cut_of(config))


def _check_classes(labels: Tensor, tested: Tensor, classes: int, named: bool) -> None:
    """Refuse classes that were hardly meant; named: whether the classes are.

    Raises: DataError.
    """
    if classes < 2:
        raise DataError(f"labels of {classes} class: at least 2 are needed")
    if labels.dim() == 2:
        return
    images = labels.bincount(minlength=classes)
    missing = (images == 0).nonzero().flatten().tolist()
    if not named and tested.dim() == 1 and len(tested) and tested.max() > labels.max():
        raise DataError(
            f"test labels go up to {tested.max()}, training labels to {labels.max()}: names= says how many classes there are"
        )
    if not named and (0 in missing or len(missing) > classes / 2):
        raise DataError(
            f"labels from {labels.min()} to {labels.max()}, of which {len(missing)} between 0 and that have no training image: "
            "labels begin at 0, without gaps (numpy.unique(labels, return_inverse=True)[1]), unless names= names every class"
        )


def _together(data: Data, size: int | None, layout: str | None, channels: int | None = None) -> tuple[Tensor, Tensor]:
    """Images as uint8 [N, channels, size, size], labels as int64 [N], or soft [N, classes]."""
    batches = [data] if isinstance(data, tuple) and len(data) == 2 else _batches(data)
    parts: list[tuple[Tensor, Tensor]] = []
    given = channels
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(f"a {type(batch).__name__}, where (images, labels) were expected")
        first = sum(len(images) for images, _ in parts)
        images = as_bytes(batch[0], given if are_pictures(batch[0]) else channels, size, layout, first)
        channels, size = images.shape[1], images.shape[-1]
        parts.append((images, _labels(batch[1], len(images), first)))
    if not any(len(images) for images, _ in parts):
        raise DataError("no images")
    most = max(images.shape[1] for images, _ in parts)  # grey pictures among those in colour have three equal channels
    wide = [images.expand(-1, most, -1, -1) if images.shape[1] == 1 else images for images, _ in parts]
    return torch.cat(wide), torch.cat([labels for _, labels in parts])


def _batches(data: Any) -> Iterable[Any]:
    """The batches of a loader; of a data set, which may have no length, all images as one batch."""
    if not isinstance(data, Dataset):
        if not isinstance(data, Iterable):
            raise DataError(f"a {type(data).__name__}, where (images, labels) were expected")
        return data
    images, labels = [], []
    single = data if isinstance(data, IterableDataset) else (data[index] for index in range(len(data)))  # type: ignore[arg-type]
    for number, item in enumerate(single):
        if not isinstance(item, tuple | list) or len(item) != 2:
            many = f" of {len(item)}" if isinstance(item, tuple | list) else ""
            raise DataError(f"a {type(item).__name__}{many}, where (image, label) was expected of item {number}")
        images.append(item[0])
        labels.append(item[1])
    return [(images, labels)] if images else []


def _labels(labels: Any, count: int, first: int) -> Tensor:
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.array(labels)
    if values.ndim == 2:
        return arrays.labels(values, count, "labels", soft=True)
    wrong = ""
    if values.shape != (count,):
        wrong = f"labels of shape {values.shape} for {count} images"
    elif count and values.dtype.kind not in "iu":
        wrong = f"labels of type {values.dtype}, such as {values[0]!r}"
    elif (values < 0).any():
        number = int((values < 0).argmax())
        wrong = f"label {values[number]} of image {first + number}"
    elif (values >= arrays.MOST_CLASSES).any():
        number = int(values.argmax())
        raise DataError(
            f"label {values[number]} of image {first + number}: at most {arrays.MOST_CLASSES - 1}, one for each class; "
            "numpy.unique(labels, return_inverse=True)[1] numbers them so"
        )
    if wrong:
        raise DataError(
            f"{wrong}: a whole number from 0 on for each is expected, or for scores shares of the classes, [images, classes]"
        )
    return torch.from_numpy(values.astype(np.int64))
