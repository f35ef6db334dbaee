"""Draw how effects change with a size, such as the images seen in training, and carry them on to the paper's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from analysis.figures import svg
from analysis.figures.palette import style
from analysis.records.effects import COMPARED, Weights, contrasts
from analysis.records.load import StudyData
from analysis.records.repeats import Repeats
from analysis.stats.statistics import LEVEL, Difference, interval_name
from analysis.stats.trend import bend_weights, line_weights, slope_weights

#: By axis: a size beyond those measured to which the line is carried on, and how it is called.
ENDS = {"images seen by a peer": (300 * 50_000, "the paper's 300 epochs of 50,000 images")}
METRICS = ("nll", "accuracy")
#: Fewest sizes for a line, and places at which its band is computed.
LEAST_SIZES, PLACES = 3, 9


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
    """Return every trend that the study names and its records allow."""
    found = []
    for axis, effects in study.header.trends.items():
        for effect, sizes in effects.items():
            family = {name: study.header.contrasts[name] for name in sizes if name in study.header.contrasts}
            for metric in METRICS:
                known = contrasts(repeats, family, [metric])[metric]
                at = dict(sorted((sizes[name], known[name]) for name in known))
                if len(at) > 1:
                    found.append(_trend(axis, effect, metric, at, {sizes[name]: family[name] for name in known}, repeats))
    return found


def _trend(
    axis: str, effect: str, metric: str, at: dict[float, Difference], family: Mapping[float, Weights], repeats: Repeats
) -> Trend:  # fmt: skip
    size = np.array(list(at))
    places = np.geomspace(size[0], max(size[-1], ENDS.get(axis, (0, ""))[0]), PLACES)
    if len(size) < LEAST_SIZES:
        return Trend(axis, effect, metric, at, places, None, None, None)
    wanted = {
        "slope": slope_weights(size), "bend": bend_weights(size),
    } | {str(number): line_weights(size, place) for number, place in enumerate(places)}  # fmt: skip
    sums = {name: _summed([family[value] for value in at], weights) for name, weights in wanted.items()}
    made = contrasts(repeats, sums, [metric])[metric]
    line = [made[str(number)] for number in range(len(places)) if str(number) in made]
    return Trend(axis, effect, metric, at, places, line or None, made.get("slope"), made.get("bend"))


def _summed(parts: Sequence[Weights], weights: np.ndarray) -> dict[str, float]:
    """Add up contrasts, each times its weight."""
    total: dict[str, float] = {}
    for part, weight in zip(parts, weights, strict=True):
        for arm, value in part.items():
            total[arm] = total.get(arm, 0.0) + float(weight) * value
    return total


def panels(found: Sequence[Trend]) -> Iterator[tuple[str, str, Callable[[Axes], None]]]:
    """Yield name, description and drawing of a panel for each trend, by axis and metric, effect after effect."""
    for number, trend in enumerate(found):
        yield f"trend-{number}", f"{trend.effect}: {trend.metric} against {trend.axis}", _drawing(trend)


def _drawing(trend: Trend) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
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
        axes.set_title(trend.effect)

    return draw


def caption(study: StudyData, found: Sequence[Trend]) -> str:
    """Say what the panels show, and what they cannot."""
    end = "".join(
        f" The line goes on to {ENDS[axis][1]} (dotted): that it goes on straight there is nothing that was measured."
        for axis in dict.fromkeys(trend.axis for trend in found)
        if axis in ENDS
    )
    return (
        f"Points: each effect at each size with its {interval_name(study.header.level)} over seeds and test images. Dashed: "
        f"the straight line in the logarithm of the size, with the {interval_name(LEVEL)} of its value as a band. In NLL less "
        f"is better, in accuracy more.{end}"
    )


def words(found: Sequence[Trend]) -> str:
    """Say each effect's growth, and what its line says at the end, in NLL."""
    parts = [part for trend in found if trend.metric == "nll" and (part := _words(trend))]
    return "; ".join(parts) + "." if parts else "Too few sizes or seeds for a line."


def _words(trend: Trend) -> str | None:
    if trend.slope is None or trend.slope.interval is None or not trend.line:
        return None
    (smallest, first), *_, (largest, last) = trend.at.items()
    said = (
        f"{trend.effect}: {first.mean:+.4f} at {_size(smallest)} {trend.axis}, {last.mean:+.4f} at "
        f"{_size(largest)}, {_numbers(trend.slope)} for each doubling"
    )
    if trend.bend and trend.bend.interval and trend.bend.p <= LEVEL:
        said += " (not a straight line)"
    if trend.axis in ENDS:
        beyond = np.log2(trend.places[-1] / largest)
        if beyond > 0:
            said += f"; {beyond:.1f} doublings further, at {ENDS[trend.axis][1]}, the line says {_numbers(trend.line[-1])}"
    return said


def _numbers(effect: Difference) -> str:
    low, high = effect.interval or (float("nan"),) * 2
    return f"{effect.mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def _size(value: float) -> str:
    return f"{value / 1e6:.3g} million" if value >= 1e6 else f"{value:,.4g}"
