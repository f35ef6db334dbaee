"""Carry an effect on by a straight line in the logarithm of a size, as weights of the effects that were measured."""

import numpy as np


def line_weights(size: np.ndarray, at: float) -> np.ndarray:
    """Return the weights [n] by which values at the sizes add up to their least-squares line in log size, at the size ``at``.

    The line's value is thus a contrast like any other, with the same intervals. size: [n], positive.

    Raises: ValueError for fewer than two different sizes.
    """
    place, middle, spread = _places(size)
    return 1 / len(place) + (np.log2(at) - middle) * (place - middle) / spread


def slope_weights(size: np.ndarray) -> np.ndarray:
    """Return the weights [n] that give the line's rise for each doubling of the size.

    Raises: ValueError for fewer than two different sizes.
    """
    place, middle, spread = _places(size)
    return (place - middle) / spread


def bend_weights(size: np.ndarray) -> np.ndarray:
    """Return the weights [n] of the least-squares parabola's second coefficient: 0 on average where a straight line holds.

    Raises: ValueError for fewer than three different sizes.
    """
    if len(np.unique(size)) < 3:
        raise ValueError(f"a bend needs three different sizes, got {len(np.unique(size))}")
    place, middle, _ = _places(size)
    return np.linalg.pinv(np.vander(place - middle, 3))[0]


def _places(size: np.ndarray) -> tuple[np.ndarray, float, float]:
    place = np.log2(np.asarray(size, float))
    spread = float(((place - place.mean()) ** 2).sum())
    if not spread > 0:
        raise ValueError(f"a line needs two different sizes, got {len(np.unique(size))}")
    return place, float(place.mean()), spread
