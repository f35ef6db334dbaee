"""Let it snow, freeze, be foggy or bright in front of images: four of the corruptions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from mldiv.datasets.blur import smeared, zoomed
from mldiv.datasets.noise import Streams, Values, stretch

#: Shares of red, green and blue in a grey level (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)

#: Of frost: its brightness from darkest to lightest, the spread of its pixels at both, and what red, green and blue have more,
#: in grey levels. They are those of the five published pictures.
FROST_LEVELS, FROST_SPREADS, FROST_TINT = (114.0, 204.0), (34.0, 18.0), (-18.0, 3.0, 15.0)
#: How fast frost's spectrum falls with the frequency, in amplitude.
FROST_FALL = 0.4

Maps = Float64[Tensor, "images side side"]


def grey(images: Tensor) -> Tensor:
    """Return the luma of images [images, channels, ...] in one channel."""
    if images.shape[1] == 1:
        return images
    return (images * torch.tensor(LUMA, dtype=images.dtype).view(1, 3, 1, 1)).sum(1, keepdim=True)


def snow(images: Values, severity: int, streams: Streams) -> Values:
    """Whiten the image and lay smeared flakes over it, and the same once more upside down."""
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.2, 1.0, 0.6, 8.0, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10.0, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10.0, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12.0, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14.0, 12.0, 0.8),
    )[severity - 1]
    size = images.shape[-1]
    flakes = zoomed(mean + spread * streams.normal(1, size, size), zoom * stretch(size))
    flakes = torch.where(flakes < least, 0.0, flakes).clamp(0, 1)
    flakes = smeared(torch.floor(flakes * 255) / 255, radius, sigma, streams.uniform(-135.0, -45.0))
    whitened = kept * images + (1 - kept) * torch.maximum(images, 1.5 * grey(images) + 0.5)
    return whitened + flakes + flakes.flip(-1, -2)


def frost(images: Values, severity: int, streams: Streams) -> Values:
    """Darken the image and add frost to it, made up of noise.

    chosen: the published files show crops of five photographs, which mldiv does not bring; ours has their range of brightness
    and of contrast, their tint and about their grain.
    """
    kept, strength = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    return kept * images + strength * _frost(images.shape[1], images.shape[-1], streams)


def _frost(channels: int, size: int, streams: Streams) -> Values:
    """Bright, branching ridges, where noise of a falling spectrum passes zero."""
    across, down = torch.fft.rfftfreq(size, dtype=torch.float64), torch.fft.fftfreq(size, dtype=torch.float64)
    frequency = torch.hypot(across, down[:, None]).clamp_min(1 / size)
    waves = torch.fft.rfft2(streams.normal(2, size, size)) * frequency**-FROST_FALL
    fields = torch.fft.irfft2(waves, s=(size, size))
    cloud, crystals = _standardized(fields[:, 0]), _standardized(-fields[:, 1].abs())
    texture = _standardized(cloud + crystals)
    share = streams.uniform(0.0, 1.0).view(-1, 1, 1)
    level, spread = (ends[0] + share * (ends[1] - ends[0]) for ends in (FROST_LEVELS, FROST_SPREADS))
    tint = torch.tensor(FROST_TINT if channels == 3 else (0.0,), dtype=torch.float64).view(1, -1, 1, 1)
    return ((level + spread * texture)[:, None] + tint).clamp(0, 255) / 255


def _standardized(maps: Maps) -> Maps:
    spread, mean = torch.std_mean(maps, (1, 2), keepdim=True)
    return (maps - mean) / spread


def fog(images: Values, severity: int, streams: Streams) -> Values:
    """Add fog that is denser here and thinner there, and darken the image to what it was at its brightest."""
    density, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    brightest = images.amax((1, 2, 3), keepdim=True)
    dense = images + density * _plasma(images.shape[-1], decay, streams)[:, None]
    return dense * brightest / (brightest + density)


def _plasma(size: int, decay: float, streams: Streams) -> Maps:
    """A height map between 0 and 1 by the diamond-square algorithm, periodic, on the next power of two.

    decay: what divides the random steps' range from one level to the next; the range enters squared.
    """
    side = 1 << (size - 1).bit_length()
    draws = streams.uniform(-1.0, 1.0, side * side)
    heights, step, height, used = torch.zeros(len(draws), side, side, dtype=torch.float64), side, 100.0, 0
    while step >= 2:
        half, cells = step // 2, (side // step) ** 2
        steps = draws[:, used : used + 3 * cells].view(-1, 3, side // step, side // step) * height**2
        corners = heights[:, ::step, ::step]
        heights[:, half::step, half::step] = _around(corners, (-1, 1), corners.roll(-1, 2), (-1, 1)) + steps[:, 0]
        centres = heights[:, half::step, half::step]
        heights[:, ::step, half::step] = _around(centres, (1, 1), corners, (-1, 2)) + steps[:, 1]
        heights[:, half::step, ::step] = _around(centres, (1, 2), corners, (-1, 1)) + steps[:, 2]
        step, height, used = half, height / decay, used + 3 * cells
    lowest, highest = heights.amin((1, 2), keepdim=True), heights.amax((1, 2), keepdim=True)
    return ((heights - lowest) / (highest - lowest))[:, :size, :size]


def _around(first: Tensor, roll: Sequence[int], second: Tensor, other: Sequence[int]) -> Tensor:
    """The mean of two points and of their neighbours, one (by, along) roll away."""
    return (first + first.roll(*roll) + second + second.roll(*other)) / 4


def brightness(images: Values, severity: int, streams: Streams) -> Values:
    """Raise the largest channel of every pixel by 0.05 to 0.3, at most to 1, and keep hue and saturation: HSV's value."""
    value = images.amax(1, keepdim=True)
    raised = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]).clamp(max=1)
    return torch.where(value > 0, images * (raised / value.clamp_min(1e-9)), raised)
