"""Draw forest plots as tables: a row per arm or contrast, its name, its interval on an axis that all share, its verdict.

They are HTML, not pictures: names wrap beside the axis at any width, and on a phone a row's parts move below each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from analysis.comparison.effects import COMPARED, Effects, verdict
from analysis.figures import html, svg
from analysis.figures.palette import Style, variable
from analysis.stats.statistics import UNDECIDED, Difference, fixed, interval_name

#: More rows than this stand closer.
MANY_ROWS = 8
#: How many times as far from zero as all others reach a row must begin to lie beyond the axis.
FAR = 2.0
CONTRAST = Style(color=svg.INK, linestyle="-", marker="D")


def panels(
    effects: Effects, contrasts: Effects, styles: Mapping[str, Style], margins: Mapping[str, float]
) -> dict[str, Markup]:  # fmt: skip
    """Make a table per metric that has a difference; arms in the order of ``styles``, contrasts below.

    margins: by metric the smallest difference that matters, drawn as a band around 0.
    """
    found = {}
    for name in dict.fromkeys([*effects, *contrasts]):
        arms = {arm: effects[name][arm] for arm in styles if arm in effects.get(name, {})}
        if arms or contrasts.get(name):
            found[name] = _table(name, arms, contrasts.get(name, {}), styles, margins[name])
    return found


def limits(differences: Sequence[Difference], margin: float = 0.0) -> tuple[float, float]:
    """Return the ends of an axis that shows intervals and zero, with some air.

    Up to half of the rows lie beyond its ends, whole, where they are FAR from zero: beside them the others, and twice the
    ``margin``, would be one spot.
    """
    rows = sorted(((row.mean, *(row.interval or ())) for row in differences), key=_nearest)
    reach = [max(2 * margin, *(abs(end) for row in rows[: count + 1] for end in row)) for count in range(len(rows))]
    half = -(-len(rows) // 2)
    kept = next((count for count in range(half, len(rows)) if _nearest(rows[count]) > FAR * reach[count - 1]), len(rows))
    ends = [0.0, *(end for row in rows[:kept] for end in row)]
    low, high = min(ends), max(ends)
    air = 0.06 * (high - low) or 1.0
    return low - air, high + air


def _nearest(ends: Sequence[float]) -> float:
    """Return how far from zero an interval begins; 0 where it holds zero."""
    return 0.0 if min(ends) <= 0 <= max(ends) else min(map(abs, ends))


def beyond(effect: Difference, axis: tuple[float, float]) -> bool:
    """Return whether a row lies beyond the axis's ends, where an arrow stands for it."""
    return not axis[0] <= effect.mean <= axis[1]


def _table(
    name: str, arms: Mapping[str, Difference], contrasts: Mapping[str, Difference], styles: Mapping[str, Style], margin: float
) -> Markup:
    metric, every = COMPARED[name], [*arms.values(), *contrasts.values()]
    axis = limits(every, margin)
    usual = max(effect.n for effect in every)
    rows = [_row(arm, effect, styles[arm], name, margin, axis, usual) for arm, effect in arms.items()]
    if arms and contrasts:
        rows.append(Markup('<tr class="heading"><th scope="rowgroup" colspan="4">Contrasts</th></tr>'))
    rows += [_row(contrast, effect, CONTRAST, name, margin, axis, usual) for contrast, effect in contrasts.items()]
    levels = " or ".join(sorted({interval_name(effect.level) for effect in every}))
    way = "higher is better →" if metric.more else "← lower is better"
    head = Markup(
        '<thead><tr><th scope="col"></th><th scope="col">Difference in {}{} ({})</th>'
        '<th scope="col" class="verdict">verdict</th><th scope="col" class="numbers">mean [{}]</th></tr></thead>'
    ).format(metric.title, metric.unit, way, levels)
    foot = Markup('<tfoot><tr><td>{}</td><td class="strip"><div class="axis">{}</div></td><td></td><td></td></tr></tfoot>')
    body = Markup("<tbody>{}</tbody>").format(Markup("").join(rows))
    off = "▶ or ◀: beyond the axis" if any(beyond(effect, axis) for effect in every) else ""
    label = f"Differences in {metric.title}: {len(arms)} arms, {len(contrasts)} contrasts"
    return Markup('<table class="forest{}" aria-label="{}">{}{}{}</table>').format(
        " dense" * (len(rows) > MANY_ROWS), label, head, body, foot.format(off, _ticks(axis))
    )


def _row(
    name: str, effect: Difference, style: Style, metric: str, margin: float, axis: tuple[float, float], usual: int
) -> Markup:  # fmt: skip
    """Write a row: name, interval and mean on the axis, verdict, numbers; n where it is not the ``usual`` one."""
    word = verdict(effect, metric, margin, contrast=style is CONTRAST)
    parts = [_span("band", -margin, margin, axis), _span("zero", 0, 0, axis)]
    off = beyond(effect, axis)
    if effect.interval and not off:
        parts.append(_span("bar", *effect.interval, axis, f"background:{variable(style.color)}"))
    mark = html.marker(replace(style, marker="<>"[effect.mean > 0]) if off else style, hollow=word == UNDECIDED)
    parts.append(Markup('<span class="mark" style="left:{}%">{}</span>').format(f"{_place(effect.mean, axis):.2f}", mark))
    numbers = effect.text(COMPARED[metric].digits) + (f", n = {effect.n}" if effect.n != usual else "")
    return Markup(
        '<tr><th scope="row">{}</th><td class="strip"><div aria-hidden="true">{}</div></td><td class="verdict {}">{}</td>'
        '<td class="numbers">{}</td></tr>'
    ).format(name, Markup("").join(parts), word.replace(" 0", ""), word, html.unbroken(numbers))


def _place(value: float, axis: tuple[float, float]) -> float:
    """Return where a value lies on the axis, in percent of its length."""
    return min(100.0, max(0.0, 100 * (value - axis[0]) / (axis[1] - axis[0])))


def _span(kind: str, low: float, high: float, axis: tuple[float, float], more: str = "") -> Markup:
    left, right = _place(low, axis), _place(high, axis)
    return Markup('<span class="{}" style="left:{}%;width:{}%;{}"></span>').format(
        kind, f"{left:.2f}", f"{right - left:.2f}", more
    )


def _ticks(axis: tuple[float, float]) -> Markup:
    values = [value for value in MaxNLocator(nbins=4).tick_values(*axis) if axis[0] <= value <= axis[1]]
    tick = Markup('<span style="left:{}%">{}</span>')
    digits = max(len(f"{value:.10g}".partition(".")[2]) for value in values)
    return Markup("").join(tick.format(f"{_place(value, axis):.2f}", fixed(value, digits)) for value in values)
