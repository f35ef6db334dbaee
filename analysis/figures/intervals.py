"""Draw the differences to the baseline and the contrasts as a figure for a paper: a panel per score, a row per arm."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from analysis.comparison.effects import COMPARED, Effects, verdict
from analysis.figures import forest, svg
from analysis.figures.forest import CONTRAST
from analysis.figures.palette import Style
from analysis.stats.statistics import UNDECIDED, Difference

#: The scores that are drawn, where arms are compared by them.
SCORES = ("nll", "accuracy")
#: Of a figure, in points.
ROW, AIR, WIDTH = 17.0, 74.0, 620.0
BAND = "#e9e6df"
#: Of a row beyond the axis.
ARROW: dict[str, Any] = {"arrowstyle": "-|>", "shrinkA": 0.0, "shrinkB": 0.0, "linewidth": 1.6}

Row = tuple[str, Difference, Style]


def draw(
    effects: Effects, contrasts: Effects, styles: Mapping[str, Style], margins: Mapping[str, float], baseline: str, out: Path
) -> list[Path]:
    """Write differences.png and .pdf into ``out`` and return their paths; none where nothing is compared.

    effects, contrasts: in printed units, by metric and arm or name; margins: by metric the smallest difference that matters, a
    band around 0; baseline: what the arms are compared with.
    """
    names = [name for name in SCORES if effects.get(name) or contrasts.get(name)]
    rows = {name: _rows(effects.get(name, {}), contrasts.get(name, {}), styles) for name in names}
    if not rows:
        return []
    with svg.style():
        figure = svg.canvas(AIR + ROW * max(map(len, rows.values())), WIDTH, dpi=130, facecolor="white")
        for column, name in enumerate(names, 1):
            _panel(figure.add_subplot(1, len(names), column), name, rows[name], margins[name], names=column == 1)
        what = f"difference to {baseline}{', or contrast' if any(contrasts.values()) else ''}"
        meaning = f"{what}; hollow: undecided; band: no difference that matters"
        if any(panel.texts for panel in figure.axes):
            meaning += "; arrow: beyond the axis"
        figure.supxlabel(meaning, fontsize=8, parse_math=False)
        return svg.files(figure, out, "differences")


def _rows(arms: Mapping[str, Difference], contrasts: Mapping[str, Difference], styles: Mapping[str, Style]) -> list[Row]:
    found = [(arm, arms[arm], style) for arm, style in styles.items() if arm in arms]
    return found + [(name, effect, CONTRAST) for name, effect in contrasts.items()]


def _panel(axes: Axes, name: str, rows: Sequence[Row], margin: float, *, names: bool) -> None:
    metric, ends = COMPARED[name], forest.limits([effect for _, effect, _ in rows], margin)
    axes.axvspan(-margin, margin, color=BAND, linewidth=0)
    axes.axvline(0, color=svg.INK, linewidth=0.8)
    for place, (_, effect, style) in enumerate(rows):
        if forest.beyond(effect, ends):
            _arrow(axes, place, effect, style, metric.digits)
            continue
        hollow = verdict(effect, name, margin, contrast=style is CONTRAST) == UNDECIDED
        face = "white" if hollow else style.color
        axes.plot(effect.interval or (effect.mean,) * 2, (place, place), color=style.color, linewidth=1.6)
        axes.plot(effect.mean, place, style.marker, color=style.color, markerfacecolor=face, markersize=5.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(*ends)
    axes.set_yticks(range(len(rows)), [arm if names else "" for arm, _, _ in rows], parse_math=False)
    axes.tick_params(axis="y", length=0)
    way = "higher is better" if metric.more else "lower is better"
    axes.set_title(f"{metric.title}{metric.unit}\n{way}", fontsize=9)
    axes.locator_params(axis="x", nbins=6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _arrow(axes: Axes, place: int, effect: Difference, style: Style, digits: int) -> None:
    """Draw a row that lies beyond the axis: its mean, and an arrow to the end where it would be found."""
    right = effect.mean > 0
    axes.annotate(
        f"{effect.mean:+.{digits}f}", (float(right), place), (-14 if right else 14, 0), ("axes fraction", "data"),
        "offset points", ha="right" if right else "left", va="center", fontsize=8, color=style.color,
        arrowprops=ARROW | {"color": style.color, "relpos": (float(right), 0.5)},
    )  # fmt: skip
