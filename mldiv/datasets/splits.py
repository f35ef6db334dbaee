"""Split data sets and make augmented batches on the device. Randomness comes from the caller's generators and seeds."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, special
from torch.nn import functional

from mldiv import soft_labels
from mldiv.datasets.formats import arrays, label_file
from mldiv.datasets.sources import DATASETS, IN_MEMORY_BYTES, DataError, FolderImages, Source
from mldiv.environment.terminal import first_few

#: Values of images of which moments are taken in double precision at once; of more they are counted by level.
MOST_DOUBLES = 2**26
#: Classes that a note names.
MOST_NAMED = 10

Moments = Float[Tensor, "1 channels 1 1"]


@dataclass(frozen=True)
class Split:
    """The images, uint8 [images, channels, height, width] or files decoded when asked for, and labels, int64 [images].

    taught: labels to train with in the place of these, where there are others; shares: soft labels to be scored by, float32
    [images, classes], of which ``labels`` are the largest.
    """

    images: Tensor | FolderImages
    labels: Tensor
    taught: Tensor | None = None
    shares: Tensor | None = None

    @property
    def truth(self) -> Tensor:
        """What predictions are scored against: the soft labels, where there are some."""
        return self.labels if self.shares is None else self.shares

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """Return the images at ``indices``, in that order."""
        taught, shares = (None if labels is None else labels[indices] for labels in (self.taught, self.shares))
        rest = self.labels[indices], taught, shares
        if isinstance(self.images, FolderImages):
            return Split(FolderImages([self.images.paths[index] for index in indices], self.images.shape[-1]), *rest)
        return Split(self.images[indices], *rest)

    def to(self, device: torch.device) -> "Split":
        """Return the split on a device; files stay files."""
        if isinstance(self.images, FolderImages):
            return self
        shares = None if self.shares is None else self.shares.to(device)
        return Split(self.images.to(device), self.labels.to(device), shares=shares)


class Shapes(NamedTuple):
    """What a network and its loss must know of the data; image_size: side in pixels."""

    classes: int
    channels: int
    train_images: int
    image_size: int = 32


@dataclass(frozen=True)
class ImageData:
    """A data set in its three splits; mean and std per channel, of values in [0, 1]; padding, flip: augmentation; names: of the
    classes, where they are known.

    notes: what a reader should know of where images and labels come from.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int
    flip: bool
    test_split: str = "official"
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.images.shape[1]

    @property
    def shapes(self) -> Shapes:
        """What a network and its loss must know of these data."""
        return Shapes(self.classes, self.channels, len(self.train), self.train.images.shape[-1])

    @property
    def form(self) -> dict[str, Any]:
        """What other images must be brought into to be predicted, as a trial's record holds it."""
        return {
            "channels": self.channels, "image_size": self.shapes.image_size, "mean": list(self.mean), "std": list(self.std),
            "names": None if self.names is None else list(self.names),
        }  # fmt: skip

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name: train, validation, test."""
        return {name: getattr(self, name) for name in ("train", "validation", "test")}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that training sees of the data, wherever it lies: pixels (or files), labels, augmentation."""
        return self._hash((self.classes, self.mean, self.std, self.padding, self.flip), self.train, self.validation)

    @cached_property
    def whole_fingerprint(self) -> str:
        """Hash of all images and labels alone: moments differ in their last digits by the threads that add them up."""
        return self._hash((self.classes,), self.train, self.validation, self.test)

    @cached_property
    def test_fingerprint(self) -> str:
        """Hash of the test images and labels in their order, by which labels of another file are known to be of these."""
        return self._hash((self.classes,), self.test)

    @property
    def label_entropy(self) -> float:
        """Entropy of the test images' classes, in nats: the NLL of a network that knows how frequent they are, and no more."""
        truth = self.test.truth.cpu()
        shares = truth.double().mean(0) if truth.dim() == 2 else torch.bincount(truth).double() / len(truth)
        return float(torch.special.entr(shares).sum())

    def _hash(self, form: tuple[object, ...], *parts: Split) -> str:
        digest = hashlib.sha256(repr(form).encode())
        for part in parts:
            for labels in (part.labels,) if part.shares is None else (part.labels, part.shares):
                digest.update(labels.cpu().numpy().tobytes())
            raw = part.images.cpu().numpy().tobytes() if isinstance(part.images, Tensor) else part.images.described()
            digest.update(raw)
        return digest.hexdigest()[:16]

    def to(self, device: torch.device) -> "ImageData":
        """Return the data on a device, where its batches are then made; folders that do not fit into memory stay files."""
        return replace(self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device))

    def describe(self) -> str:
        """Say how many images of what these are."""
        side = self.train.images.shape[-1]
        tested = "test" if self.test_split == "official" else "development"
        return (
            f"{self.name}: {len(self.train):,} training, {len(self.validation):,} validation and {len(self.test):,} {tested} "
            f"images of {side}x{side} pixels, {self.classes} classes"
            + ("" if self.test_split == "official" else "; development images, from the training set, stand in for test data")
            + "".join(f"; {note}" for note in self.notes)
        )


class TooFewImages(DataError):
    """A data set is too small for what is asked of it; the message says by which setting."""


@dataclass(frozen=True)
class Augmentation:
    """An epoch's random shifts, 0 to 2 ``padding``, and flips, by image: the same however many ranks share the epoch."""

    shift_y: Int[Tensor, " images"]
    shift_x: Int[Tensor, " images"]
    flip: Bool[Tensor, " images"]
    padding: int


def load(
    name: str, root: Path | None, *, seed: int, validation_fraction: float, train_size: int | None = None,
    validation_size: int | None = None, test_size: int | None = None, image_size: int | None = None,
    test_split: str = "official", train_labels: Path | None = None, source: Source | None = None,
) -> ImageData:  # fmt: skip
    """Read a data set and take a validation split from its training images by ``seed``; all cuts keep the classes' shares.

    validation_size: images, none for 0, or None for validation_fraction of the training images. train_size, test_size: cut to
    so many images; None keeps all. image_size: pixels to which images are resized, None as they are; shifts shrink with them.
    test_split "development": the test images are taken from the training set, as many as test_size or validation_fraction
    says; the official ones stay unused. train_labels: a file of labels to train with; the data set's own divide the images, and
    score. source: of the images, where it is not that of the name in DATASETS.

    Raises: DataError for data that is missing or damaged, TooFewImages for sizes that it cannot give.
    """
    source = source or DATASETS[name]
    size = image_size or source.size or 0
    source.check(root)
    parts = source.read(root, size)
    size = size or parts[0][0].shape[-1]
    everything, test = (_split(_sized(images, size), labels) for images, labels in parts)
    classes = source.classes or int(everything.labels.max()) + 1
    if train_labels is not None:
        everything = replace(everything, taught=label_file.read(train_labels, len(everything), classes))
    notes = [source.taken(root)] if test_split == "official" else []
    if test_split == "development":
        share = f"test_size (none: validation_fraction, {validation_fraction:g} of the training images)"
        count = round(validation_fraction * len(everything))
        everything, test = _divide(everything, test_size or count, seed, "test_size" if test_size else share)
    elif test_size is not None:
        test = _cut(test, test_size, seed, "test_size")
    wanted = round(validation_fraction * len(everything)) if validation_size is None else validation_size
    train, validation = everything, everything.take(np.arange(0))
    if validation_size != 0:
        train, validation = _divide(everything, wanted, seed, "validation_size")
    if train_size is not None:
        train = _cut(train, train_size, seed, "train_size")
    if train.taught is not None and train_labels is not None:
        notes.append(label_file.describe(train_labels, train.taught, train.labels))
        train = Split(train.images, train.taught)
    notes += _softness(train, validation, test) + _without(classes, training=train, validation=validation)
    train, validation, test = (_in_memory(replace(split, taught=None)) for split in (train, validation, test))
    mean, std = (source.mean, source.std) if source.mean and source.std else _moments(train)
    padding = min(source.padding, source.augmented_by(size)) if name == "image_folder" else source.augmented_by(size)
    said, names = tuple(note for note in notes if note), tuple(source.names(root)) if source.names else None
    return ImageData(name, classes, train, validation, test, mean, std, padding, source.flip, test_split, said, names)


def _sized(images: Any, size: int) -> Any:
    """Resize images that are read at their own size; those of a folder come in the size that is asked for."""
    if not isinstance(images, Tensor) or images.shape[-1] == size:
        return images
    return torch.cat([resized(part.float(), size) for part in images.split(1024)])


def resized(images: Float[Tensor, "images channels rows columns"], size: int) -> UInt8[Tensor, "images channels {size} {size}"]:
    """Resize images to ``size`` pixels a side by antialiased bilinear interpolation, rounded."""
    if images.shape[-2:] != (size, size):
        images = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return images.round().clamp(0, 255).to(torch.uint8)


def _split(images: Any, labels: Tensor) -> Split:
    return Split(images, arrays.classes_of(labels), shares=labels if labels.dim() == 2 else None)


def _softness(train: Split, validation: Split, test: Split) -> list[str]:
    """Say which labels are soft, what their scores are against, and how low an NLL can be at all."""
    soft = {name: part.shares for name, part in (("validation", validation), ("test", test)) if part.shares is not None}
    floors = [f"{name} (NLL at least {special.entr(shares.double()).sum(-1).mean():.3f})" for name, shares in soft.items()]
    taught = ["training takes the class of the largest share"] * (train.shares is not None)
    if floors:
        taught.insert(0, f"soft labels of {' and '.join(floors)}: {soft_labels.WORDS}")
    return taught


def _without(classes: int, **parts: Split) -> list[str]:
    """Say which classes no image of a part is of, where it has any."""
    notes = []
    for name, part in parts.items():
        none = (part.labels.bincount(minlength=classes) == 0).nonzero().flatten().tolist() if len(part) else []
        if none:
            shown = first_few(list(map(str, none)), MOST_NAMED)
            notes.append(f"class {shown} has no {name} images" if len(none) == 1 else f"classes {shown} have no {name} images")
    return notes


def _divide(split: Split, count: int, seed: int, what: str) -> tuple[Split, Split]:
    """Return the split less ``count`` images, and these; both stratified by class and in the original order."""
    from sklearn.model_selection import train_test_split  # scikit-learn takes a second to import

    if why := _indivisible(split.labels, count):
        raise TooFewImages(f"{what} = {count} of {len(split)} images cannot be taken: {why}")
    rest, taken = train_test_split(np.arange(len(split)), test_size=count, stratify=split.labels.numpy(), random_state=seed)
    return split.take(np.sort(rest)), split.take(np.sort(taken))


def _indivisible(labels: Int[Tensor, " images"], count: int) -> str:
    """Say why so many images cannot be taken with every class on both sides; nothing where they can."""
    images = labels.bincount()
    classes = int((images > 0).sum())
    if alone := (images == 1).nonzero().flatten().tolist():
        return f"class {alone[0]} has a single image, and one is needed on either side"
    if len(labels) < 2 * classes:
        return f"{classes} classes need two images each"
    if not classes <= count <= len(labels) - classes:
        return f"{classes} to {len(labels) - classes} can be, with {classes} classes on either side"
    return ""


def _cut(split: Split, count: int, seed: int, what: str) -> Split:
    if count == len(split):
        return split
    if count > len(split):
        raise TooFewImages(f"{what} = {count}: there are only {len(split)} images")
    return _divide(split, count, seed, what)[1]


def _in_memory(split: Split) -> Split:
    if isinstance(split.images, Tensor) or not 0 < split.images.shape.numel() <= IN_MEMORY_BYTES:
        return split
    return replace(split, images=decoded(split.images, torch.arange(len(split))))


def decoded(images: Tensor | FolderImages, indices: Int[Tensor, " chosen"]) -> UInt8[Tensor, "chosen channels height width"]:
    """Return the images at ``indices``, in that order, on the processor."""
    if isinstance(images, Tensor):
        return images[indices.to(images.device)].cpu()
    return torch.cat(list(images.decoded(list(indices.split(256)))))


def _moments(train: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel; 1 for the latter where all values are one, which it cannot divide."""
    assert isinstance(train.images, Tensor)
    if train.images.numel() <= MOST_DOUBLES:
        std, mean = torch.std_mean(train.images.double() / 255, (0, 2, 3))
    else:
        counts = torch.stack(
            [train.images[:, channel].flatten().bincount(minlength=256) for channel in range(train.images.shape[1])]
        )
        levels, count = torch.arange(256).double() / 255, counts.sum(1)
        mean = (counts * levels).sum(1) / count
        std = ((counts * (levels - mean[:, None]).square()).sum(1) / (count - 1)).sqrt()
    return tuple(mean.tolist()), tuple(std.where(std > 0, 1.0).tolist())


def draw_augmentation(data: ImageData, generator: torch.Generator) -> Augmentation:
    """Draw an epoch's shifts and flips for every training image."""
    count, span = len(data.train), 2 * data.padding + 1
    shift_y, shift_x = torch.randint(span, (2, count), generator=generator)
    flip = torch.rand(count, generator=generator) < (0.5 if data.flip else 0.0)
    return Augmentation(shift_y, shift_x, flip, data.padding)


def random_crop_flip(
    images: UInt8[Tensor, "batch channels height width"],
    shift_y: Int[Tensor, " batch"],
    shift_x: Int[Tensor, " batch"],
    flip: Bool[Tensor, " batch"],
    padding: int,
) -> UInt8[Tensor, "batch channels height width"]:
    """Pad each image with zeros, crop it at its own shift and mirror it or not: all of a batch in one gather."""
    _, _, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4) if padding else images
    rows = shift_y[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(len(images), -1)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + shift_x[:, None]
    index = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train_batches(
    data: ImageData, *, batch_size: int, order: Int[Tensor, " images"], augmentation: Augmentation,
    rank: int = 0, world: int = 1, device: torch.device,
) -> Iterator[tuple[Float[Tensor, "batch channels height width"], Int[Tensor, " batch"]]]:  # fmt: skip
    """Yield this rank's share of an epoch's batches on the device, augmented and normalised, but an incomplete last one.

    batch_size: images of a step over all ranks; a rank takes its contiguous part of each. order: indices of the training
    images.

    Raises: DataError when there is not one full batch.
    """
    steps, share = len(order) // batch_size, batch_size // world
    if steps == 0:
        raise DataError(f"batch_size = {batch_size} exceeds the {len(order)} training images")
    moments = _moments_on(data, device)
    shift_y, shift_x, flip = (draw.to(device) for draw in (augmentation.shift_y, augmentation.shift_x, augmentation.flip))
    labels = data.train.labels.to(device)
    chunks = [order[step * batch_size + rank * share :][:share] for step in range(steps)]
    for chunk, images in zip(_on_device(chunks, device), _raw(data.train, chunks, device), strict=True):
        shifted = random_crop_flip(images, shift_y[chunk], shift_x[chunk], flip[chunk], augmentation.padding)
        yield normalize(shifted, *moments), labels[chunk]


def eval_batches(
    data: ImageData, split: str, *, batch_size: int, rank: int = 0, world: int = 1, device: torch.device,
    most: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Yield this rank's contiguous share of a split in order, normalised, with its labels, soft where there are soft ones.

    The ranks' shares in turn are the split. split: train, validation or test. most: end after so many batches.
    """
    part = data.splits[split]
    share = -(-len(part) // world)
    mine = torch.arange(len(part))[rank * share : (rank + 1) * share]
    chunks = list(mine.split(batch_size))[:most] if len(mine) else []
    moments, labels = _moments_on(data, device), part.truth.to(device)
    for chunk, images in zip(_on_device(chunks, device), _raw(part, chunks, device), strict=True):
        yield normalize(images, *moments), labels[chunk]


def normalize(
    images: UInt8[Tensor, "batch channels height width"], mean: Moments, std: Moments
) -> Float[Tensor, "batch channels height width"]:
    """Turn uint8 into float32 with the data set's mean and standard deviation per channel."""
    return (images.float() / 255 - mean) / std


def _moments_on(data: ImageData, device: torch.device) -> tuple[Moments, Moments]:
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (data.mean, data.std))
    return mean, std


def _on_device(chunks: list[Tensor], device: torch.device) -> list[Tensor]:
    """Return the chunks of indices on the device, in one transfer."""
    return list(torch.cat(chunks).to(device).split([len(chunk) for chunk in chunks])) if chunks else []


def _raw(split: Split, chunks: list[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield the uint8 images of each chunk of indices on the device; files are decoded a few batches ahead."""
    if not isinstance(split.images, Tensor):
        yield from (images.to(device, non_blocking=True) for images in split.images.decoded(chunks, pin=device.type == "cuda"))
        return
    images = split.images
    for chunk in _on_device(chunks, images.device):
        yield images[chunk].to(device)
