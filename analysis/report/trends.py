"""Draw how effects change with a size, such as the images seen in training, and carry them on to the paper's."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from analysis.comparison.effects import COMPARED, Looks, Weights, contrasts
from analysis.figures import svg
from analysis.figures.palette import style
from analysis.records.load import StudyData
from analysis.records.repeats import Repeats
from analysis.stats.statistics import LEVEL, Difference, interval_name
from analysis.stats.trend import bend_weights, line_weights, slope_weights

#: By axis: a size beyond those measured to which the line is carried on, and how it is called.
ENDS = {"images seen by a peer": (300 * 50_000, "the paper's 300 epochs of 50,000 images")}
METRICS = ("nll", "accuracy")
#: Fewest sizes for a line, and places at which its band is computed.
LEAST_SIZES, PLACES = 3, 9
#: Of the figure on paper: panels beside each other; height of a row and width of all, in points.
COLUMNS, ROW, WIDTH = 3, 165.0, 620.0
#: Letters of a panel's title that have room in a line.
TITLE = 28


@dataclass(frozen=True)
class Trend:
    """An effect at several sizes, in a metric of COMPARED. axis: the size in words; at: by size, the effect there, ascending.

    line: at each of the places [n], the straight line in log size; slope: its rise for each doubling; bend: the parabola's
    second coefficient. All three are None where fewer than LEAST_SIZES sizes have finished, or no seed has all of them.
    """

    axis: str
    effect: str
    metric: str
    at: dict[float, Difference]
    places: np.ndarray
    line: list[Difference] | None
    slope: Difference | None
    bend: Difference | None


def trends(study: StudyData, repeats: Repeats) -> list[Trend]:
    """Return every trend that the study names and its records allow; of one that adds seeds, over those of its last look."""
    found, header = [], study.header
    last = Looks(study.looks[-1:], header.level, header.margins) if header.looks else None
    for axis, effects in header.trends.items():
        for effect, sizes in effects.items():
            family = {name: header.contrasts[name] for name in sizes if name in header.contrasts}
            for metric in METRICS:
                known = contrasts(repeats, family, [metric], last)[metric]
                at = dict(sorted((sizes[name], known[name]) for name in known))
                if len(at) > 1:
                    found.append(_trend(axis, effect, metric, at, {sizes[name]: family[name] for name in known}, repeats, last))
    return found


def _trend(
    axis: str, effect: str, metric: str, at: dict[float, Difference], family: Mapping[float, Weights], repeats: Repeats,
    last: Looks | None,
) -> Trend:  # fmt: skip
    size = np.array(list(at))
    places = np.geomspace(size[0], max(size[-1], ENDS.get(axis, (0, ""))[0]), PLACES)
    if len(size) < LEAST_SIZES:
        return Trend(axis, effect, metric, at, places, None, None, None)
    wanted = {
        "slope": slope_weights(size), "bend": bend_weights(size),
    } | {str(number): line_weights(size, place) for number, place in enumerate(places)}  # fmt: skip
    sums = {name: _summed([family[value] for value in at], weights) for name, weights in wanted.items()}
    made = contrasts(repeats, sums, [metric], last)[metric]
    line = [made[str(number)] for number in range(len(places)) if str(number) in made]
    return Trend(axis, effect, metric, at, places, line or None, made.get("slope"), made.get("bend"))


def _summed(parts: Sequence[Weights], weights: np.ndarray) -> dict[str, float]:
    """Add up contrasts, each times its weight."""
    total: dict[str, float] = {}
    for part, weight in zip(parts, weights, strict=True):
        for arm, value in part.items():
            total[arm] = total.get(arm, 0.0) + float(weight) * value
    return total


def draw(found: Sequence[Trend], out: Path) -> list[Path]:
    """Write trends.png and .pdf into ``out`` and return their paths: a panel for each effect by NLL, one scale an axis."""
    axes = dict.fromkeys(trend.axis for trend in found)
    by_axis = {axis: [trend for trend in found if (trend.axis, trend.metric) == (axis, "nll")] for axis in axes}
    rows = [shown[place : place + COLUMNS] for shown in by_axis.values() for place in range(0, len(shown), COLUMNS)]
    with svg.style():
        figure = svg.canvas(ROW * len(rows), WIDTH, dpi=130, facecolor="white")
        for number, row in enumerate(rows):
            limits = scale(by_axis[row[0].axis])
            for column, trend in enumerate(row):
                panel = figure.add_subplot(len(rows), COLUMNS, number * COLUMNS + column + 1)
                _draw(trend, panel)
                panel.set_ylim(*limits)
                panel.set_title(textwrap.fill(trend.effect, TITLE))
                panel.set_ylabel("" if column else "effect on NLL")
        return svg.files(figure, out, "trends")


def scale(found: Sequence[Trend]) -> tuple[float, float]:
    """Return the ends of a scale on which all effects and lines lie, and their intervals but those that dwarf all effects."""
    means = [effect.mean for trend in found for effect in (*trend.at.values(), *(trend.line or ()))]
    spread = max(0.0, *means) - min(0.0, *means)
    intervals = [effect.interval for trend in found for effect in trend.at.values() if effect.interval]
    ends = [end for low, high in intervals if high - low <= 2 * spread for end in (low, high)] + means
    return min(0.0, *ends) - 0.06 * spread, max(0.0, *ends) + 0.06 * spread


def panels(found: Sequence[Trend]) -> Iterator[tuple[str, str, Callable[[Axes], None]]]:
    """Yield name, description and drawing of a panel for each trend, by axis and metric, effect after effect."""
    for number, trend in enumerate(found):
        yield f"trend-{number}", f"{trend.effect}: {trend.metric} against {trend.axis}", partial(_draw, trend)


def _draw(trend: Trend, axes: Axes) -> None:
    look, metric = style(1), COMPARED[trend.metric]
    axes.axhline(0, color=svg.INK, linewidth=0.9)
    if trend.line and all(point.interval for point in trend.line):
        low, high = np.array([point.interval for point in trend.line]).T
        axes.fill_between(trend.places, low, high, color=look.color, alpha=0.14, linewidth=0)
        axes.plot(trend.places, [point.mean for point in trend.line], color=look.color, linestyle="--", linewidth=1)
    for size, effect in trend.at.items():
        axes.plot([size] * 2, effect.interval or [effect.mean] * 2, color=look.color, linewidth=1.6)
        axes.plot([size], [effect.mean], color=look.color, marker="o", markersize=5)
    if trend.axis in ENDS:
        axes.axvline(ENDS[trend.axis][0], color=svg.INK, linewidth=0.9, linestyle=":")
    axes.set(xscale="log", xlabel=trend.axis, ylabel=f"{metric.title}{' points' if metric.unit else ''}")
    if max(trend.at) < 10 * min(trend.at):  # less than a decade has no round numbers
        axes.set_xticks(list(trend.at), [f"{size:g}" for size in trend.at])
        axes.set_xticks([], minor=True)
    axes.set_title(trend.effect)


def caption(study: StudyData, found: Sequence[Trend]) -> str:
    """Say what the panels show, and what they cannot."""
    end = "".join(
        f" The line goes on to {ENDS[axis][1]} (dotted): that it goes on straight there is nothing that was measured."
        for axis in dict.fromkeys(trend.axis for trend in found)
        if axis in ENDS
    )
    return (
        f"Points: each effect at each size with its {interval_name(study.header.level)} over seeds and test images"
        f"{', those of the last look' * bool(study.header.looks)}. Dashed: the straight line in the logarithm of the size, "
        f"with the interval of its value as a band. In NLL less is better, in accuracy more.{end}"
    )


def words(found: Sequence[Trend]) -> list[str]:
    """Say in Markdown, by axis, by how much NLL changes for each doubling: a sentence of the effects that grow or shrink, with
    what their lines say at the end, and of those of which neither can be told."""
    lines = []
    for axis in dict.fromkeys(trend.axis for trend in found):
        lined = [
            trend for trend in found if (trend.axis, trend.metric) == (axis, "nll") and trend.slope and trend.slope.interval
        ]
        if not lined:
            lines.append(f"**Growth with {axis}**: too few sizes or seeds for a line.")
            continue
        told = [trend for trend in lined if trend.slope and trend.slope.p <= LEVEL]
        sizes = sorted({size for trend in lined for size in trend.at})
        said = [f"{trend.effect} {_numbers(trend.slope)}{_further(trend)}" for trend in told]
        untold = [trend.effect + _bent(trend) for trend in lined if trend not in told]
        said += [f"neither growth nor decline can be told: {', '.join(untold)}"] if untold else []
        lines.append(
            f"**Growth with {axis}**, {_size(sizes[0])} to {_size(sizes[-1])}: NLL for each doubling, and what a straight line "
            f"would say further on: {'; '.join(said)}."
        )
    return lines


def _further(trend: Trend) -> str:
    """Say what the line gives at the end of its axis, where it has one beyond what was measured."""
    if trend.axis not in ENDS or not trend.line or trend.places[-1] <= max(trend.at):
        return _bent(trend)
    return f"{_bent(trend)}, at {ENDS[trend.axis][1]} {_numbers(trend.line[-1])}"


def _bent(trend: Trend) -> str:
    """Say of an effect that does not grow straight that it does not."""
    return " (no straight line)" if trend.bend and trend.bend.interval and trend.bend.p <= LEVEL else ""


def table(found: Sequence[Trend]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of a table of all effects: at both ends of what was measured, for each doubling, carried on."""
    heads = ["effect", "score", "at the smallest", "at the largest", "for each doubling", "the line, carried on"]
    rows = []
    for trend in found:
        (_, first), *_, (_, last) = trend.at.items()
        cells = [first, last, trend.slope, trend.line[-1] if trend.line and trend.axis in ENDS else None]
        rows.append([f"{trend.effect} by {trend.axis}", COMPARED[trend.metric].title, *map(_numbers, cells)])
    return heads, rows


def _numbers(effect: Difference | None) -> str:
    return "" if effect is None else effect.text(4)


def _size(value: float) -> str:
    return f"{value / 1e6:.3g} million" if value >= 1e6 else f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
