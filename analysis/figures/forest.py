"""Forest plots: differences to the baseline with their intervals, a panel per metric, arms first, contrasts below."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from analysis.figures import html, svg
from analysis.figures.palette import Style
from analysis.records.effects import COMPARED
from analysis.stats.statistics import LEVEL, Difference

Effects = Mapping[str, Mapping[str, Difference]]


#: Heights in points: of a row, and of title and axis together; of a further line of a name, in rows.
ROW, FRAME, LINE = 31.0, 62.0, 0.4
WIDTH = 240.0
#: What fits side by side into a row: a name's line and the numbers.
LETTERS = 42
CONTRAST = Style(color=svg.INK, linestyle="-", marker="D")


@dataclass(frozen=True)
class Row:
    """A row of a panel: its name, cut into lines; its difference, or None for a heading."""

    lines: list[str]
    one: Difference | None
    style: Style

    @property
    def height(self) -> float:
        """In units of ROW."""
        return (1.0 if self.one else 0.7) + LINE * (len(self.lines) - 1)


def panels(effects: Effects, contrasts: Effects, styles: Mapping[str, Style]) -> list[Markup]:
    """A figure per metric that has a difference; arms in the order of ``styles``."""
    found = []
    for name in dict.fromkeys([*effects, *contrasts]):
        arms = {arm: one for arm in styles if (one := effects.get(name, {}).get(arm)) is not None}
        second = dict(contrasts.get(name, {}))
        if arms or second:
            found.append(_panel(name, arms, second, styles))
    return found


def numbers(effects: Effects, contrasts: Effects, styles: Mapping[str, Style]) -> Markup:
    """What the panels show, as a table."""
    rows = []
    for name in dict.fromkeys([*effects, *contrasts]):
        metric = COMPARED[name]
        arms = [(arm, effects[name][arm]) for arm in styles if arm in effects.get(name, {})]
        for arm, one in [*arms, *contrasts.get(name, {}).items()]:
            interval = f"{one.interval[0]:+.{metric.digits}f} to {one.interval[1]:+.{metric.digits}f}" if one.interval else None
            mean = f"{one.mean:+.{metric.digits}f}"
            rows.append([arm, f"{metric.title}{metric.unit}", mean, interval, one.n, f"{one.p:.2g}", f"{one.adjusted:.2g}"])
    head = ["", "metric", "mean difference", "95 % interval", "n", "p", "Holm-adjusted p"]
    return html.table(head, rows, rigid=True)


def limits(differences: list[Difference]) -> tuple[float, float]:
    """The axis: every interval and zero, with some air."""
    ends = [0.0]
    for one in differences:
        ends += [one.mean, *(one.interval or ())]
    low, high = min(ends), max(ends)
    air = 0.06 * (high - low) or 1.0
    return low - air, high + air


def _panel(name: str, arms: dict[str, Difference], contrasts: dict[str, Difference], styles: Mapping[str, Style]) -> Markup:
    metric = COMPARED[name]
    rows = _rows(arms, contrasts, styles)
    height = sum(row.height for row in rows)
    with svg.style():
        figure = svg.canvas(FRAME + ROW * height, WIDTH)
        axes = figure.add_subplot()
        axes.set(ylim=(height, 0), xlim=limits([*arms.values(), *contrasts.values()]), yticks=[])
        axes.spines.left.set_visible(False)
        axes.axvline(0, color=svg.INK, linewidth=0.9, zorder=1.5)
        top = 0.0
        for row in rows:
            _draw(axes, top, row)
            top += row.height
        side = "higher is better →" if metric.more else "← lower is better"
        axes.set_title(f"Difference in {metric.title}{metric.unit}")
        axes.set_xlabel(side)
        axes.locator_params(axis="x", nbins=5)
        return svg.svg(figure, f"forest-{name}", f"Differences in {metric.title}: {len(arms)} arms, {len(contrasts)} contrasts")


def _rows(arms: dict[str, Difference], contrasts: dict[str, Difference], styles: Mapping[str, Style]) -> list[Row]:
    rows = [Row(_wrapped(arm, one), one, styles[arm]) for arm, one in arms.items()]
    if arms and contrasts:
        rows.append(Row(["Contrasts"], None, CONTRAST))
    return rows + [Row(_wrapped(contrast, one), one, CONTRAST) for contrast, one in contrasts.items()]


def _wrapped(name: str, one: Difference) -> list[str]:
    return textwrap.wrap(name, LETTERS - len(_words(one)), max_lines=3, placeholder="…") or [""]


def _words(one: Difference) -> str:
    p = "< 0.001" if one.adjusted < 0.001 else f"= {one.adjusted:.2g}"
    return f"n = {one.n}, p {p}"


def _draw(axes: Axes, top: float, row: Row) -> None:
    """Name to the left, numbers to the right, point and interval below; text stands on paper, so no line crosses it."""
    text = partial(
        axes.text,
        transform=axes.get_yaxis_transform(),
        fontsize=9,
        parse_math=False,
        bbox={"facecolor": svg.PAPER, "edgecolor": "none", "pad": 0.6},
    )
    for place, line in enumerate(row.lines):
        text(0, top + 0.42 + LINE * place, line, style="normal" if row.one else "italic")
    if row.one is None:
        axes.axhline(top + 0.05, color=svg.INK, linewidth=0.6)
        return
    one, style, middle = row.one, row.style, top + row.height - 0.32
    text(1, top + 0.42, _words(one), ha="right")
    if one.interval:
        axes.plot(one.interval, [middle] * 2, color=style.color, linewidth=2, solid_capstyle="butt")
    face = style.color if one.adjusted <= LEVEL else svg.PAPER
    axes.plot([one.mean], [middle], marker=style.marker, color=style.color, markerfacecolor=face, markersize=6)
