"""Find and draw Pareto fronts: the points that no other point beats. All objectives are minimised."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from analysis.figures.palette import Style


def pareto(points: np.ndarray) -> np.ndarray:
    """Tell which rows of ``points`` [n, k] lie on the front: [n], bool.

    Equal points are on it together; rows with NaN never. A row is off it if another is nowhere higher and somewhere lower.
    Rows are looked at by rising sum, so that no later row can beat an earlier one, and each only against the front so far.
    """
    points = np.asarray(points, float)
    mask = np.zeros(len(points), bool)
    finite = np.flatnonzero(np.isfinite(points).all(1))
    kept, count = np.empty(points.shape[::-1]), 0
    for index in finite[np.lexsort([*points[finite].T[::-1], points[finite].sum(1)])]:
        row = points[index]
        others = kept[:, :count]
        if not ((others <= row[:, None]).all(0) & (others < row[:, None]).any(0)).any():
            mask[index] = True
            kept[:, count], count = row, count + 1
    return mask


def draw_front(
    axes: Axes, first: np.ndarray, second: np.ndarray, *, labels: Sequence[str], styles: Mapping[str, Style]
) -> None:
    """Draw both objectives [n] of every setting in its arm's colour and marker, filled on the front, and the front."""
    mask = pareto(np.stack([first, second], 1))
    order = np.flatnonzero(mask)[np.lexsort((second[mask], first[mask]))]
    x = np.append(first[order], first[np.isfinite(first)].max())
    y = np.append(second[order], second[order].min())
    axes.step(x, y, where="post", color="#000000", linewidth=1.0, zorder=1)
    for arm in dict.fromkeys(labels):
        own = np.array([label == arm for label in labels])
        style = styles[arm]
        for chosen, face in ((own & ~mask, "none"), (own & mask, style.color)):
            axes.scatter(first[chosen], second[chosen], s=26, marker=style.marker, facecolors=face, edgecolors=style.color,
                         linewidths=1.1)  # fmt: skip
