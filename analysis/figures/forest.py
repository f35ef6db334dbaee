"""Draw forest plots: differences to the baseline with their intervals, a panel per metric, arms first, contrasts below."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from analysis.figures import html, svg
from analysis.figures.palette import Style
from analysis.records.effects import COMPARED, Effects
from analysis.stats.statistics import LEVEL, UNDECIDED, Difference, interval_name

#: Heights of a row, and of title and axis together.
ROW_POINTS, FRAME_POINTS = 31.0, 62.0
#: Height of a further line of a name.
LINE_ROWS = 0.4
WIDTH_POINTS = 240.0
#: What fits side by side into a row: a name's line and the numbers.
ROW_LETTERS = 42
CONTRAST = Style(color=svg.INK, linestyle="-", marker="D")


@dataclass(frozen=True)
class Row:
    """A row of a panel: its name, cut into lines, its difference, None for a heading, and what stands beside it."""

    lines: list[str]
    effect: Difference | None
    style: Style
    words: str = ""

    @property
    def height(self) -> float:
        """Height in units of ROW_POINTS."""
        return (1.0 if self.effect else 0.7) + LINE_ROWS * (len(self.lines) - 1)


def panels(effects: Effects, contrasts: Effects, styles: Mapping[str, Style], margins: Mapping[str, float]) -> list[Markup]:
    """Draw a figure per metric that has a difference; arms in the order of ``styles``.

    margins: by metric the smallest difference that matters, drawn as a band around 0.
    """
    found = []
    for name in dict.fromkeys([*effects, *contrasts]):
        arms = {arm: effects[name][arm] for arm in styles if arm in effects.get(name, {})}
        if arms or contrasts.get(name):
            found.append(_panel(name, arms, dict(contrasts.get(name, {})), styles, margins[name]))
    return found


def numbers(effects: Effects, contrasts: Effects, styles: Mapping[str, Style], margins: Mapping[str, float]) -> Markup:
    """Tabulate what the panels show."""
    rows = []
    for name in dict.fromkeys([*effects, *contrasts]):
        metric = COMPARED[name]
        arms = [(arm, effects[name][arm]) for arm in styles if arm in effects.get(name, {})]
        for arm, effect in [*arms, *contrasts.get(name, {}).items()]:
            mean, *ends = (f"{value:+.{metric.digits}f}" for value in (effect.mean, *(effect.interval or ())))
            p = f"{effect.p:.2g}", f"{effect.adjusted:.2g}"
            verdict = effect.verdict(margins[name], metric.more)
            rows.append([arm, f"{metric.title}{metric.unit}", verdict, mean, " to ".join(ends) or None, effect.n, *p])
    levels = {effect.level for of in (*effects.values(), *contrasts.values()) for effect in of.values()}
    name = interval_name(levels.pop() if levels else LEVEL)
    head = ["", "metric", "verdict", "mean difference", name, "n", "p", "Holm-adjusted p"]
    return html.table(head, rows, rigid=True)


def limits(differences: list[Difference]) -> tuple[float, float]:
    """Return the ends of an axis that shows every interval and zero, with some air."""
    ends = [0.0]
    for difference in differences:
        ends += [difference.mean, *(difference.interval or ())]
    low, high = min(ends), max(ends)
    air = 0.06 * (high - low) or 1.0
    return low - air, high + air


def _panel(
    name: str, arms: dict[str, Difference], contrasts: dict[str, Difference], styles: Mapping[str, Style], margin: float
) -> Markup:
    metric = COMPARED[name]
    rows = _rows(arms, contrasts, styles, margin, metric.more)
    height = sum(row.height for row in rows)
    with svg.style():
        figure = svg.canvas(FRAME_POINTS + ROW_POINTS * height, WIDTH_POINTS)
        axes = figure.add_subplot()
        axes.set(ylim=(height, 0), xlim=limits([*arms.values(), *contrasts.values()]), yticks=[])
        axes.spines.left.set_visible(False)
        axes.axvspan(-margin, margin, color=svg.INK, alpha=0.08, linewidth=0, zorder=1)
        axes.axvline(0, color=svg.INK, linewidth=0.9, zorder=1.5)
        top = 0.0
        for row in rows:
            _draw(axes, top, row)
            top += row.height
        axes.set_title(f"Difference in {metric.title}{metric.unit}")
        axes.set_xlabel("higher is better →" if metric.more else "← lower is better")
        axes.locator_params(axis="x", nbins=5)
        return svg.svg(figure, f"forest-{name}", f"Differences in {metric.title}: {len(arms)} arms, {len(contrasts)} contrasts")


def _rows(
    arms: dict[str, Difference], contrasts: dict[str, Difference], styles: Mapping[str, Style], margin: float, more: bool
) -> list[Row]:
    def row(name: str, effect: Difference, style: Style) -> Row:
        words = f"{effect.verdict(margin, more)}, n = {effect.n}"
        lines = textwrap.wrap(name, ROW_LETTERS - len(words), max_lines=3, placeholder="…") or [""]
        return Row(lines, effect, style, words)

    rows = [row(arm, effect, styles[arm]) for arm, effect in arms.items()]
    if arms and contrasts:
        rows.append(Row(["Contrasts"], None, CONTRAST))
    return rows + [row(contrast, effect, CONTRAST) for contrast, effect in contrasts.items()]


def _draw(axes: Axes, top: float, row: Row) -> None:
    """Draw name to the left, numbers to the right, point and interval below; text is on paper, so no line crosses it."""
    paper = {"facecolor": svg.PAPER, "edgecolor": "none", "pad": 0.6}
    text = partial(axes.text, transform=axes.get_yaxis_transform(), fontsize=9, parse_math=False, bbox=paper)
    for place, line in enumerate(row.lines):
        text(0, top + 0.42 + LINE_ROWS * place, line, style="normal" if row.effect else "italic")
    if row.effect is None:
        axes.axhline(top + 0.05, color=svg.INK, linewidth=0.6)
        return
    effect, style, middle = row.effect, row.style, top + row.height - 0.32
    text(1, top + 0.42, row.words, ha="right")
    if effect.interval:
        axes.plot(effect.interval, [middle] * 2, color=style.color, linewidth=2, solid_capstyle="butt")
    face = svg.PAPER if row.words.startswith(UNDECIDED) else style.color
    axes.plot([effect.mean], [middle], marker=style.marker, color=style.color, markerfacecolor=face, markersize=6)
