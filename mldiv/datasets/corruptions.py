"""Corrupt test images by 15 kinds at five severities, on the fly from a seed, or read them from published files.

Kinds and strengths: see `noise`. Add a kind to CORRUPTIONS.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mldiv.datasets import blur, noise, weather
from mldiv.datasets.blur import smoothing
from mldiv.datasets.files import DataError, existing_folder
from mldiv.datasets.noise import Streams, Values
from mldiv.datasets.splits import ImageData, Split, decoded

SEVERITIES = (1, 2, 3, 4, 5)

#: Images that are corrupted together.
BATCH_IMAGES = 500
#: What rounding may take from a grey level: the published files are cut to whole levels, not rounded.
ROUNDING = 1e-6

#: Test images in a published file, at each severity, and pixels of their sides.
FILE_IMAGES, FILE_PIXELS = 10_000, 32
#: Folders of published files below the data's, by data set.
PUBLISHED = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
FILES_HINT = "it should hold CIFAR-10-C's or CIFAR-100-C's <kind>.npy, 15 of them, and labels.npy"

Pixels = UInt8[Tensor, "images channels size size"]


class Shifted(NamedTuple):
    """Test images under one corruption, with their labels; indices: int64 [images], their places in the test split."""

    kind: str
    severity: int
    split: Split
    indices: Tensor


def contrast(images: Values, severity: int, streams: Streams) -> Values:
    """Pull every channel towards its mean over the image, to 0.75 to 0.15 of its distance."""
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1] + mean


def elastic_transform(images: Values, severity: int, streams: Streams) -> Values:
    """Map three points elsewhere, and all between them, then move every pixel by smooth noise; bilinear."""
    size = images.shape[-1]
    lengths = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    height, sigma, corner = (size * share for share in lengths[severity - 1])
    middle, third = size // 2, size // 3
    before = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, -1, 0]], dtype=torch.float64) * third + middle
    before[:, 2] = 1
    after = before.repeat(len(images), 1, 1)
    after[:, :, :2] += corner * streams.uniform(-1.0, 1.0, 3, 2)
    back = torch.linalg.solve(after, before.expand_as(after))  # [x, y, 1] after -> before
    rows, columns = torch.meshgrid(*(torch.arange(size, dtype=torch.float64),) * 2, indexing="ij")
    grid = torch.stack([columns, rows, torch.ones_like(rows)], -1)
    places = (grid.flatten(0, 1) @ back)[..., :2].view(-1, size, size, 2)
    images = functional.grid_sample(images, places * 2 / (size - 1) - 1, padding_mode="reflection", align_corners=True)
    matrix = smoothing(size, sigma, 3.0, "symmetric")
    moves = height * (matrix @ streams.uniform(-1.0, 1.0, 2, size, size) @ matrix.T)
    places = grid[..., :2] + moves.movedim(1, -1)
    return functional.grid_sample(images, (places * 2 + 1) / size - 1, padding_mode="reflection", align_corners=False)


def pixelate(images: Values, severity: int, streams: Streams) -> Values:
    """Shrink to 0.95 to 0.65 of the side and enlarge again, by Pillow's box filter, in whole grey levels."""
    size = images.shape[-1]
    small = int(size * (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1])
    centres = (torch.arange(small, dtype=torch.float64)[:, None] + 0.5) * size / small
    distance = torch.arange(size, dtype=torch.float64) + 0.5 - centres
    inside = ((distance > -size / small / 2) & (distance <= size / small / 2)).to(torch.float64)
    box = inside / inside.sum(1, keepdim=True)
    wide = torch.floor(images @ box.T * 255 + 0.5 + ROUNDING) / 255
    shrunk = torch.floor(box @ wide * 255 + 0.5 + ROUNDING) / 255
    back = ((torch.arange(size) + 0.5) * small / size).long()
    return shrunk[:, :, back][..., back]


def jpeg_compression(images: Values, severity: int, streams: Streams) -> Values:
    """Compress to JPEG of quality 80 to 40 by Pillow, colours at half resolution, and read that again."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    return torch.stack([_compressed(image, quality) for image in _whole(images)]).to(images.dtype) / 255


def _compressed(image: UInt8[Tensor, "channels size size"], quality: int) -> UInt8[Tensor, "channels size size"]:
    pixels, file = image.permute(1, 2, 0).numpy(), io.BytesIO()
    Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(file, "JPEG", quality=quality)
    with Image.open(file, formats=("JPEG",)) as compressed:
        return torch.from_numpy(np.array(compressed)).view(*pixels.shape).permute(2, 0, 1)


def _whole(values: Values) -> Pixels:
    """Cut values to whole grey levels."""
    return (values.clamp(0, 1) * 255 + ROUNDING).to(torch.uint8)


CORRUPTIONS: dict[str, Callable[[Values, int, Streams], Values]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}


def corrupt(images: Pixels, kind: str, severity: int, *, seed: int = 0, indices: Sequence[int] | None = None) -> Pixels:
    """Corrupt images, of 8 pixels a side or more, with 1 or 3 channels, on the CPU.

    indices: what tells an image from another, by default its place: with the seed and the kind it decides what is random, so
    that an image is the same in every batch. kind: a key of CORRUPTIONS; severity: one of SEVERITIES.
    """
    chosen = list(range(len(images)) if indices is None else indices)
    parts = []
    for start in range(0, len(images), BATCH_IMAGES):
        values = images[start : start + BATCH_IMAGES].double() / 255
        streams = Streams(seed, kind, chosen[start : start + BATCH_IMAGES])
        parts.append(_whole(CORRUPTIONS[kind](values, severity, streams)))
    return torch.cat(parts) if parts else images.clone()


def shifted(data: ImageData, count: int, *, files: Path | None = None) -> Iterator[Shifted]:
    """Yield ``count`` test images under every kind at every severity, those of a kind at all five the same.

    A fixed permutation of the test images is dealt to the kinds, and dealt again from its beginning where it ends.
    files: a folder of published files, of which the images are then taken; the test split must be the official one, uncut.

    Raises: DataError when there are fewer test images, and as `check_files` does.
    """
    if not 0 < count <= len(data.test):
        raise DataError(f"{count} corrupted images of a kind: must be at least 1, and at most the {len(data.test)} test images")
    if files is not None:
        check_files(files, data.test.labels)
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
    for place, kind in enumerate(CORRUPTIONS):
        indices = order[torch.arange(place * count, (place + 1) * count) % len(order)]
        labelled = data.test.take(indices.numpy())
        clean = decoded(data.test.images, indices) if files is None else torch.empty(0)
        for severity in SEVERITIES:
            if files is None:
                images = corrupt(clean, kind, severity, indices=indices.tolist())
            else:
                images = _from_file(files, kind, severity, indices.numpy())
            yield Shifted(kind, severity, replace(labelled, images=images.to(labelled.labels.device)), indices)


def published(name: str, root: str | None) -> Path:
    """Return the folder of a data set's published corrupted images.

    Raises: DataError for a data set that has none, or without a place of the data.
    """
    if name not in PUBLISHED or root is None:
        raise DataError(f"corrupted images of {name!r} from files: there are some of {', '.join(PUBLISHED)}, below --data-root")
    return Path(root) / PUBLISHED[name]


def check_files(folder: Path, labels: Tensor) -> None:
    """Look at CIFAR-10-C's or CIFAR-100-C's files before any work starts.

    labels: those of the data set's official test images, int64 [10,000].

    Raises: DataError, naming the file, for one that is missing, damaged, of another shape or type, or of other labels.
    """
    existing_folder(folder, FILES_HINT)
    for kind in CORRUPTIONS:
        _opened(folder / f"{kind}.npy", (len(SEVERITIES) * FILE_IMAGES, FILE_PIXELS, FILE_PIXELS, 3))
    path = folder / "labels.npy"
    found = np.asarray(_opened(path, (len(SEVERITIES) * FILE_IMAGES,)))
    expected = labels.cpu().numpy()
    if len(expected) != FILE_IMAGES:
        raise DataError(
            f"{folder}: its files are of {FILE_IMAGES:,} test images, the test split has {len(expected):,}; take the official "
            "one, uncut, or leave the files out"
        )
    if (found.reshape(len(SEVERITIES), -1) != expected).any():
        raise DataError(f"{path}: other labels than those of the test images; take the files of this data set")


def _from_file(folder: Path, kind: str, severity: int, indices: np.ndarray) -> Pixels:
    images = _opened(folder / f"{kind}.npy", (len(SEVERITIES) * FILE_IMAGES, FILE_PIXELS, FILE_PIXELS, 3))
    chosen = np.ascontiguousarray(images[(severity - 1) * FILE_IMAGES + indices])
    return torch.from_numpy(chosen).permute(0, 3, 1, 2).contiguous()


def _opened(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A file's array, still on the disk: bytes, or labels of any width."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; {FILES_HINT}")
    try:
        array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # numpy's are of many kinds
        raise DataError(f"{path}: not a readable .npy file ({' '.join(str(error).split())[:200]}); take it again") from None
    if array.shape != shape or not (array.dtype == np.uint8 or (len(shape) == 1 and array.dtype.kind in "iu")):
        raise DataError(f"{path}: {array.dtype} {array.shape}, where uint8 {shape} was expected; {FILES_HINT}")
    return array
