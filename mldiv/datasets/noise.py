"""Draw random numbers that belong to an image, whatever batch it comes in; three corruptions are such noise alone.

The 15 corruptions are those of Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (ICLR 2019), with the strengths of CIFAR-10-C. Each takes images of values in [0, 1], a severity from 1 to 5 and
the images' streams, and returns values that may lie beyond [0, 1].
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from mldiv.seeding import generator

#: Float64: what rounding makes of an image in another batch is far below a grey level.
Values = Float64[Tensor, "images channels size size"]

#: Side in pixels of the images that the published strengths are for.
PUBLISHED_PIXELS = 32


class Streams:
    """A random stream for each image of a batch; every draw is [images, *shape] in float64.

    seed, purpose, index: what a stream is made of, by SHA-256. The severity is not: the draws of an image are the same at all
    five, which can thus be compared by pairs [chosen: the published files were drawn anew].
    """

    def __init__(self, seed: int, purpose: str, indices: Sequence[int]) -> None:
        self.generators = [generator(seed, purpose, index) for index in indices]

    def normal(self, *shape: int) -> Tensor:
        """Draw from the standard normal distribution."""
        return self._each(lambda stream: torch.randn(shape, generator=stream, dtype=torch.float64))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw between two ends."""
        return low + (high - low) * self._each(lambda stream: torch.rand(shape, generator=stream, dtype=torch.float64))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw whole numbers, int64, from ``low`` to ``high`` - 1."""
        return self._each(lambda stream: torch.randint(low, high, shape, generator=stream))

    def poisson(self, rates: Tensor) -> Tensor:
        """Draw counts of these expectations, of the first axis one row for each stream."""
        return torch.stack([torch.poisson(rate, stream) for rate, stream in zip(rates, self.generators, strict=True)])

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(stream) for stream in self.generators])


def stretch(size: int) -> float:
    """Return what a length in pixels is multiplied by for images of ``size`` pixels a side.

    size / 32; 1 below 32 pixels [chosen: a blur shrunk below a pixel would be none].
    """
    return max(1.0, size / PUBLISHED_PIXELS)


def gaussian_noise(images: Values, severity: int, streams: Streams) -> Values:
    """Add normal noise of standard deviation 0.04 to 0.10 to every value."""
    return images + (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1] * streams.normal(*images.shape[1:])


def shot_noise(images: Values, severity: int, streams: Streams) -> Values:
    """Draw every value anew as a count of photons, of which white has 500 to 50, divided by white's."""
    white = (500, 250, 100, 75, 50)[severity - 1]
    return streams.poisson(images * white) / white


def impulse_noise(images: Values, severity: int, streams: Streams) -> Values:
    """Set 1 % to 7 % of the values to 0 or 1, either as often as the other."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    hit, salt = streams.uniform(0.0, 1.0, 2, *images.shape[1:]).unbind(1)
    return torch.where(hit < amount, (salt < 0.5).to(images.dtype), images)
