"""Blur images out of focus, behind glass, by motion or by zooming: four of the corruptions, and what the weather needs of them.

Lengths in pixels are those of 32-pixel images, see `noise.stretch`.
"""

import math

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional

from mldiv.datasets.noise import PUBLISHED_PIXELS, Streams, Values, stretch

#: Tap of a blur below which it would not move a grey level.
SMALLEST_TAP = 1e-5


def smoothing(size: int, sigma: float, truncate: float, boundary: str) -> Float64[Tensor, "{size} {size}"]:
    """Return the matrix that smooths columns by a normal curve of ``sigma`` pixels, as scipy.ndimage.gaussian_filter1d does.

    truncate: standard deviations after which the curve is cut; boundary: edge or symmetric, numpy.pad's names.
    """
    reach = int(truncate * sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / max(sigma, 1e-9)) ** 2)
    sources = np.pad(np.arange(size), reach, "symmetric" if boundary == "symmetric" else "edge")
    windows = torch.from_numpy(sources).unfold(0, len(taps), 1)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, windows, (taps / taps.sum()).expand(size, -1))


def smoothed(images: Values, sigma: float) -> Values:
    """Smooth images as scikit-image's gaussian does: cut at four standard deviations, edge values continued."""
    matrix = smoothing(images.shape[-1], sigma, 4.0, "edge")
    return matrix @ images @ matrix.T


def defocus_blur(images: Values, severity: int, streams: Streams) -> Values:
    """Convolve with a disc of radius 0.3 to 1.5 pixels, its rim softened, the image mirrored at its borders."""
    sizes = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))
    radius, softness = (length * stretch(images.shape[-1]) for length in sizes[severity - 1])
    kernel = _disc(radius, softness, round(stretch(images.shape[-1])))
    padded = functional.pad(images, (len(kernel) // 2,) * 4, mode="reflect")
    return functional.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None]).view_as(images)


def _disc(radius: float, softness: float, reach: int) -> Float64[Tensor, "side side"]:
    """A disc of whole pixels, smoothed by a normal curve that is cut ``reach`` pixels from its centre."""
    half = int(radius)
    axis = torch.arange(-half, half + 1, dtype=torch.float64)
    disc = (axis**2 + axis[:, None] ** 2 <= radius**2).to(torch.float64)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / softness) ** 2)
    taps = torch.outer(taps, taps) / taps.sum() ** 2
    return functional.conv2d((disc / disc.sum())[None, None], taps[None, None], padding=2 * reach)[0, 0]


def glass_blur(images: Values, severity: int, streams: Streams) -> Values:
    """Smooth, let every pixel but the borders' show one to its upper left, once or twice, and smooth again.

    The published code means to swap the two, but copies the other's colour, as here; it goes from the lower right, and at 32
    pixels finds every source still untouched, so that all can be copied at once.
    """
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    size = images.shape[-1]
    sigma, most = sigma * stretch(size), round(stretch(size))
    values = torch.floor(smoothed(images, sigma) * 255 + 1e-6) / 255
    axis = torch.arange(size)
    inner = (axis > most) & (axis <= size - most)
    offsets = streams.integers(-most, most, rounds, 2, size, size) * (inner & inner[:, None])
    for rows, columns in (offset.unbind(1) for offset in offsets.unbind(1)):
        values = _picked(values, axis[:, None] + rows, axis + columns)
    return smoothed(values, sigma)


def motion_blur(images: Values, severity: int, streams: Streams) -> Values:
    """Smear along a direction of -45 to 45 degrees, each image's own."""
    radius, sigma = ((6.0, 1.0), (6.0, 1.5), (6.0, 2.0), (8.0, 2.0), (9.0, 2.5))[severity - 1]
    return smeared(images, radius, sigma, streams.uniform(-45.0, 45.0))


def smeared(images: Values, radius: float, sigma: float, degrees: Float64[Tensor, " images"]) -> Values:
    """Smear images to one side by half a normal curve, as ImageMagick's motion blur does, in whole grey levels.

    radius, sigma: length and standard deviation of the curve, in pixels of 32-pixel images.
    """
    size = images.shape[-1]
    radius, sigma = radius * stretch(size), sigma * stretch(size)
    taps = torch.exp(-0.5 * (torch.arange(2 * math.ceil(radius) + 1, dtype=torch.float64) / sigma) ** 2)
    taps = taps / taps.sum()
    axis, angle, result = torch.arange(size), torch.deg2rad(degrees), torch.zeros_like(images)
    for distance, tap in enumerate(taps[taps > SMALLEST_TAP].tolist()):
        down, right = (torch.ceil(distance * part - 0.5).long()[:, None] for part in (angle.sin(), angle.cos()))
        rows, columns = ((axis + shift).clamp(0, size - 1) for shift in (down, right))
        result += tap * _picked(images, rows[:, :, None], columns[:, None, :])
    return torch.floor(result * 255 + 1e-6) / 255


def zoom_blur(images: Values, severity: int, streams: Streams) -> Values:
    """Average the image with itself magnified by 1.00, 1.01, ... up to 1.06 to 1.25."""
    last = (6, 11, 15, 20, 25)[severity - 1]
    smaller = max(1.0, PUBLISHED_PIXELS / images.shape[-1])  # as many pixels at the border as of 32
    apart = smaller * (1.01 - 1)  # numpy.arange's step, whose last digit decides how 1.25 is cut to whole pixels
    zooms = [zoomed(images, 1 + step * apart) for step in range(last + 1)]
    return (images + torch.stack(zooms).sum(0)) / (len(zooms) + 1)


def zoomed(images: Values, factor: float) -> Values:
    """Magnify the centre, cut to whole pixels, bilinear."""
    size = images.shape[-1]
    inside = math.ceil(size / factor)
    side, start = round(inside * factor), (size - inside) // 2
    part = images[..., start : start + inside, start : start + inside]
    larger = functional.interpolate(part, (side, side), mode="bilinear", align_corners=True)
    start = (side - size) // 2
    return larger[..., start : start + size, start : start + size]


def _picked(images: Values, rows: Tensor, columns: Tensor) -> Values:
    """Take every pixel from its own row and column of its image; both broadcast to int64 [images, size, size]."""
    places = (rows * images.shape[-1] + columns).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, places).view_as(images)
