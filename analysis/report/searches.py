"""Draw what a search found: a response surface with where its optimum lies, and the Pareto front of two objectives."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Transform

from analysis.figures.palette import Style
from analysis.stats.surface import PAPER, ZERO_DECADES, Axis, Surface

#: Ink on the surface's own colours, the same on every page.
DARK, LIGHT = "#101010", "#fdfdfd"


def draw_surface(ax: Axes, surface: Surface, value_name: str) -> None:
    """Draw contours of the posterior mean, the trials, the optimum's 90 % region and the paper's point.

    0 stands left of a break in its axis. The lowest nine tenths of the square share the colours evenly; what is higher has
    the last. value_name: for the colour bar.
    """
    a, b = surface.alpha_axis, surface.beta_axis
    low, high = surface.mean.min(), np.quantile(surface.mean, 0.9)
    levels = np.linspace(low, max(high, low + 1e-9 * (1 + abs(low))), 13)
    filled = ax.contourf(a.grid, b.grid, surface.mean.T, levels, cmap="viridis", extend="max")
    ax.figure.colorbar(filled, ax=ax, label=f"{value_name}, posterior mean", format="%.4g", ticks=levels[::3])
    for color, width in ((DARK, 3.4), (LIGHT, 1.8)) if not surface.region.all() else ():
        ax.contour(a.grid, b.grid, surface.mean.T, [surface.threshold], colors=color, linewidths=width)
    outline = [withStroke(linewidth=3.4, foreground=DARK)]
    ax.plot([], [], color=LIGHT, linewidth=1.8, label="90 % region", path_effects=outline)
    places = a.place(surface.alpha), b.place(surface.beta)
    ax.plot(*places, "o", color=DARK, mec=LIGHT, mew=0.7, markersize=5, label="trials", clip_on=False, zorder=3)
    if None not in (a.nearest(PAPER[0]), b.nearest(PAPER[1])):
        name, place = f"paper ({PAPER[0]:g}, {PAPER[1]:g})", (a.place(PAPER[0]), b.place(PAPER[1]))
        ax.plot(*place, "*", color=LIGHT, mec=DARK, markersize=14, linestyle="", label=name, clip_on=False, zorder=4)
    ax.grid(False)
    _log_axis(ax.xaxis, ax.get_xaxis_transform(), a, slice(None))
    _log_axis(ax.yaxis, ax.get_yaxis_transform(), b, slice(None, None, -1))
    ax.set(xlabel="alpha", ylabel="beta", xlim=a.grid[[0, -1]], ylim=b.grid[[0, -1]])
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=7.5, frameon=False, handletextpad=0.3)


def _log_axis(side: XAxis | YAxis, transform: Transform, axis: Axis, order: slice) -> None:
    """Set ticks at decades, small ones between, "0" at zero's place and two strokes where the axis is broken."""
    decades = np.arange(np.ceil(axis.low - 1e-9), np.floor(axis.high + 1e-9) + 1)
    zero = [axis.grid[0]] * axis.zero
    side.set_ticks([*zero, *decades], [*(["0"] * axis.zero), *(f"{10**decade:g}" for decade in decades)])
    small = (np.arange(np.floor(axis.low), axis.high + 1)[:, None] + np.log10(np.arange(2, 10))).ravel()
    side.set_ticks(small[(small >= axis.low - 1e-9) & (small <= axis.high + 1e-9)], minor=True)
    for start in (0.45, 0.55) if axis.zero else ():
        stroke = [axis.low - ZERO_DECADES * (start + np.array([0.05, -0.05])), np.array([0.018, -0.018])][order]
        side.axes.plot(*stroke, transform=transform, color="black", linewidth=1, clip_on=False, zorder=5)


def pareto(points: np.ndarray) -> np.ndarray:
    """Tell which rows of ``points`` [n, k], all minimised, lie on the front, beaten by no other: [n], bool.

    Equal points are on it together; rows with NaN never. A row is off it if another is nowhere higher and somewhere lower.
    """
    mask = np.isfinite(points).all(1)
    known = points[mask]
    mask[mask] = [not ((known <= row).all(1) & (known < row).any(1)).any() for row in known]
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
