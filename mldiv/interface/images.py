"""Take images as people have them: arrays, tensors or pictures, bytes or floats, channels first or last."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mldiv.datasets.files import DataError
from mldiv.datasets.image_folder import FolderImages, to_mode
from mldiv.datasets.splits import normalize, resized

#: Arrays or tensors [images, height, width, channels], [images, channels, height, width] or, grey, [images, height, width];
#: or a sequence of such without the first axis, or of Pillow's pictures.
Images = np.ndarray | Tensor | Sequence[Any]

#: Where the channels of an image stand, by name.
LAYOUTS = {"HWC": -1, "CHW": 1}

#: Channels of images whose layout can be seen where nothing is known of them.
USUAL_CHANNELS = (1, 3)


@dataclass(frozen=True)
class ImageForm:
    """How a trial takes its images.

    channels; image_size: side in pixels; mean, std: per channel, of values in [0, 1]; names: of the classes, where known.
    """

    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...] | None = None


def normalized(
    images: Images, form: ImageForm, layout: str | None, device: torch.device, first: int = 0, count: int | None = None
) -> Tensor:
    """Return images as the networks take them, float32 [images, channels, image_size, image_size] on the device.

    Floats are rounded as those are that are trained on. Raises: DataError as `as_bytes`.
    """
    found = as_bytes(images, form.channels, form.image_size, layout, first, count).to(device)
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (form.mean, form.std))
    return normalize(found, mean, std)


def as_bytes(
    images: Images, channels: int | None, size: int | None, layout: str | None, first: int = 0, count: int | None = None
) -> Tensor:
    """Return images as data sets hold them, uint8 [images, channels, size, size]; floats in [0, 1] are rounded.

    channels: None where any will do; size: pixels a side, None as they are; other images are cut to their central square, then
    resized as data sets are. layout: HWC or CHW, None for what the shape says; first: the number of the first of them; count:
    of how many these are a batch.

    Raises: DataError, saying what is wrong with them and what would do.
    """
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"layout = {layout!r}: expected {' or '.join(LAYOUTS)}, or None to see it in the shape")
    if are_pictures(images):
        return _decoded(images, channels, size, first)
    values = _values(_stacked(images), first)
    shape = (count or len(values), *values.shape[1:])
    if len(values) and not values.numel():
        raise DataError(f"images of shape {shape}: no pixels")
    found = _square(_channels_first(values, channels, layout, shape), size)
    return found if found.dtype == torch.uint8 else (found * 255).round().to(torch.uint8)


def are_pictures(images: Any) -> TypeGuard[Sequence[Any]]:
    """Return whether images are a list of Pillow's pictures."""
    return isinstance(images, Sequence) and bool(images) and isinstance(images[0], Image.Image)


def _decoded(pictures: Sequence[Any], channels: int | None, size: int | None, first: int) -> Tensor:
    """Pictures as a folder of them is read: in grey or colour, the shorter side resized, the middle cut out."""
    if odd := [number for number, picture in enumerate(pictures) if not isinstance(picture, Image.Image)]:
        raise DataError(f"image {first + odd[0]}: a {type(pictures[odd[0]]).__name__} among Pillow's pictures: give one kind")
    mode = {None: "L" if all(picture.mode in ("1", "L") for picture in pictures) else "RGB", 1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise DataError(f"pictures have 1 or 3 channels, and {channels} are expected: give arrays")
    transform, found = FolderImages([], size or min(pictures[0].size)).transform, []
    for number, picture in enumerate(pictures, first):
        try:
            found.append(transform(to_mode(picture, mode)))
        except ValueError as error:
            raise DataError(f"image {number}: {error}: give arrays, uint8 or floats in [0, 1]") from None
    return torch.stack(found)


def _stacked(images: Any) -> Tensor:
    try:
        if isinstance(images, Tensor):
            return images.detach()
        if isinstance(images, Sequence) and images and isinstance(images[0], Tensor):
            return torch.stack(list(images)).detach()
        array = np.array(images)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "u" and array.itemsize > 1 else array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"no images of one shape and type ({error}): resize them, or give Pillow's pictures") from None


def _values(images: Tensor, first: int) -> Tensor:
    """Values as uint8, or as float32 in [0, 1]."""
    if images.dtype == torch.uint8 or not images.numel():
        return images
    if images.dtype == torch.bool or images.is_complex():
        raise DataError(f"images of {images.dtype}: expected uint8, or floats in [0, 1]")
    low, high = images.amin(), images.amax()
    if images.is_floating_point():
        if low.isnan():
            number = images.isnan().reshape(len(images), -1).any(1).nonzero()[0]
            raise DataError(f"image {first + int(number)} holds NaN, where values in [0, 1] are expected")
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"float images from {low:.4g} to {high:.4g}, where values in [0, 1] are expected, not normalised: the trial's "
                "own mean and standard deviation are taken off here; give uint8 for values up to 255"
            )
        return images.float()
    if low < 0 or high > 255:
        raise DataError(f"whole numbers from {low} to {high}, where 0 to 255 are expected")
    return images.to(torch.uint8)


def _channels_first(images: Tensor, channels: int | None, layout: str | None, shape: tuple[int, ...]) -> Tensor:
    """Move the channels; shape: that of the images of which these are a batch."""
    grey = channels in (None, 1)
    if images.dim() == 3 and grey:
        return images[:, None]
    expected = f"{channels or '1 or 3'} channel{'s' * (channels != 1)}"
    if images.dim() != 4:
        raise DataError(
            f"images of shape {shape}: expected [images, height, width, channels] or [images, channels, height, width] with "
            f"{expected}{', or grey ones [images, height, width]' * grey}; a single image is images[None]"
        )
    known = (channels,) if channels else USUAL_CHANNELS
    fitting = [name for name, axis in LAYOUTS.items() if shape[axis] in known]
    if layout is None and len(fitting) > 1:
        raise DataError(f"images of shape {shape}: the channels may be first or last; say layout='HWC' or 'CHW'")
    if (layout is None and not fitting) or (layout is not None and channels not in (None, shape[LAYOUTS[layout]])):
        more = "" if channels else "; of another number say layout='HWC' or 'CHW'"
        raise DataError(f"images of shape {shape}: expected {expected}, last (HWC) or after the first axis (CHW){more}")
    return images.movedim(LAYOUTS[layout or fitting[0]], 1).contiguous()


def _square(images: Tensor, size: int | None) -> Tensor:
    """Cut out the central square, and resize it."""
    rows, columns = images.shape[-2:]
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    square = images[..., top : top + side, left : left + side]
    if size in (None, side):
        return square
    if images.dtype == torch.uint8:
        return resized(square.float(), size)
    return functional.interpolate(square, (size, size), mode="bilinear", antialias=True).clamp(0, 1)
