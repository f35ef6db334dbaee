"""Draw learning curves and diversity over time: means over seeds with their standard error, the switch marked on each."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import html, svg
from analysis.figures.palette import Style
from analysis.records.cautions import DEAD_SHARE
from analysis.records.load import Curve, StudyData, of_peers

#: With more arms than this, bands would hide the curves.
BAND_ARMS = 8
#: Of the picture in a file, in points.
PANEL_POINTS, LEGEND_ROW_POINTS, LEGEND_COLUMNS = 235.0, 13.0, 2

Panels = list[tuple[str, str, str, float]]
#: Title, name in a curve, scale, factor.
DIVERSITY: Panels = [
    ("W2² per weight", "w2_per_weight", "linear", 1),
    ("Cosine of the peers' means", "cosine", "linear", 1),
    ("Feature KL (log scale)", "feature_kl", "log", 1),
    ("Disagreement (%)", "disagreement", "linear", 100),
]
#: Title, term of the loss.
GRADIENTS = [
    ("Parameter term", "param_diversity"),
    ("Feature term", "feature_diversity"),
    ("Mutual learning", "mutual"),
    ("KL to the prior", "kl"),
]
LEARNING: Panels = [("Validation NLL (nats)", "nll", "linear", 1), ("Validation accuracy (%)", "accuracy", "linear", 100)]


@dataclass(frozen=True)
class Mean:
    """The mean over seeds of a curve and its standard error, NaN for fewer than two, by epochs trained; each [epochs]."""

    epoch: np.ndarray
    mean: np.ndarray
    error: np.ndarray


def aggregate(epochs: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> Mean | None:
    """Average every epoch over the seeds that have a value there; None when no seed has any.

    epochs: of each seed, [its epochs], counted from 0; values: the same shapes, NaN where not computed.
    """
    rows = [pd.Series(value, epoch)[np.isfinite(value)] for epoch, value in zip(epochs, values, strict=True)]
    table = pd.DataFrame(rows).dropna(axis=1, how="all").sort_index(axis=1)
    if table.empty:
        return None
    return Mean(table.columns.to_numpy(int) + 1, table.mean().to_numpy(), table.sem().to_numpy())


def switches(curves: Sequence[Curve]) -> list[int]:
    """Return after how many epochs stage two began: every value that occurs, ascending; empty without a stage two."""
    return sorted({curve.switch for curve in curves if curve.switch is not None})


def read(study: StudyData) -> dict[str, list[Curve]]:
    """Read each arm's curves of its finished repeats; arms without any that can be read are left out."""
    found = {}
    for arm in study.arms:
        curves = [curve for record in study.finished(arm).values() if (curve := study.curve(record.id)) is not None]
        if curves:
            found[arm] = curves
    return found


def of_member(curve: Curve, name: str, member: str) -> np.ndarray | None:
    """Return the score [epochs] of those the arm is judged by, None where the lines hold none; diversity is of all peers."""
    if member == "pair" or name not in ("nll", "accuracy"):
        return curve.values[name]
    each = of_peers(curve.values, name)
    return np.mean(each, axis=0) if each else None


def means(study: StudyData, curves: Mapping[str, list[Curve]], name: str) -> dict[str, Mean]:
    """Average each arm's curves of ``name``; arms without a single value are left out."""
    found = {}
    for arm, several in curves.items():
        values = [of_member(curve, name, study.member(arm)) for curve in several]
        known = [(curve.epoch, value) for curve, value in zip(several, values, strict=True) if value is not None]
        mean = aggregate([epoch for epoch, _ in known], [value for _, value in known])
        if mean is not None:
            found[arm] = mean
    return found


def learning(study: StudyData, curves: Mapping[str, list[Curve]], styles: Mapping[str, Style]) -> Markup:
    """Draw validation scores against epochs: all epochs, and the last part enlarged."""
    start = zoom(curves)
    panels = []
    for title, name, scale, factor in LEARNING:
        by_arm = means(study, curves, name)
        for words, first in ((title, 0), (f"{title}, from epoch {start}", start)):
            if by_arm:
                panels.append(_panel(words, f"curve-{name}-{first}", by_arm, curves, styles, scale, factor, first))
    if not panels:
        return html.paragraph("No line holds scores on validation data.")
    what = "Scores on validation data after every epoch (of the pair, or of a single network where the arm is one)"
    return html.figure(panels, _caption(what, curves), html.legend({arm: styles[arm] for arm in curves}))


def draw(study: StudyData, curves: Mapping[str, list[Curve]], styles: Mapping[str, Style], out: Path) -> list[Path]:
    """Write learning.png and .pdf, `learning`'s NLL, into ``out`` and return their paths; none without scores."""
    with svg.style():
        figure = _file(study, curves, styles)
        return svg.files(figure, out, "learning") if figure else []


def _file(study: StudyData, curves: Mapping[str, list[Curve]], styles: Mapping[str, Style]) -> Figure | None:
    title, name, scale, factor = LEARNING[0]
    by_arm = means(study, curves, name)
    if not by_arm:
        return None
    start, rows = zoom(curves), -(-len(by_arm) // LEGEND_COLUMNS)
    figure = svg.canvas(PANEL_POINTS + LEGEND_ROW_POINTS * rows, 2 * svg.WIDTH_POINTS, dpi=130, facecolor="white")
    for place, (words, first) in enumerate(((title, 0), (f"{title}, from epoch {start}", start)), 1):
        _lines(figure.add_subplot(1, 2, place), words, by_arm, curves, styles, scale, factor, first)
    handles = [Line2D([], [], markersize=5, **asdict(styles[arm])) for arm in by_arm]
    legend = figure.legend(
        handles, [textwrap.fill(arm, 44) for arm in by_arm], loc="outside lower center", ncols=LEGEND_COLUMNS,
        title=f"mean over seeds, {counted(map(len, curves.values()))}; band: one standard error; marker: the switch",
        title_fontsize=8, fontsize=8.5, frameon=False,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def diversity(study: StudyData, curves: Mapping[str, list[Curve]], styles: Mapping[str, Style]) -> Markup:
    """Draw how different the peers are, against epochs."""
    panels = []
    for title, name, scale, factor in DIVERSITY:
        if by_arm := means(study, curves, name):
            panels.append(_panel(title, f"curve-{name}", by_arm, curves, styles, scale, factor))
    if not panels:
        return html.paragraph("No arm has more than one network, or no line says how they differ.")
    what = (
        "How different the peers are after every epoch (where they are more than two, mean over pairs of them): squared "
        "Wasserstein distance of their posteriors over the number of weights; cosine between their posterior means, averaged "
        "over layers (1: same direction, 0: unrelated, below 0: opposed); KL between the similarities that their features give "
        "to a batch of validation images; share of validation images on which they predict different classes"
    )
    return html.figure(panels, _caption(what, curves), html.legend({arm: styles[arm] for arm in curves}))


def gradients(study: StudyData, curves: Mapping[str, list[Curve]], styles: Mapping[str, Style]) -> Markup:
    """Draw how long each term's gradient in the peers' means is beside the cross-entropy's, against epochs."""
    panels = []
    for title, term in GRADIENTS:
        if drawn := {arm: found for arm, several in curves.items() if (found := _shares(several, term)) is not None}:
            words = f"{title} (share, log scale)"
            panels.append(_panel(words, f"gradient-{term}", drawn, curves, styles, "log", 1, level=DEAD_SHARE))
    if not panels:
        return html.paragraph("No gradients were measured: set gradient_points to more points of an epoch.")
    n = counted(sum(1 for curve in several if len(curve.points)) for several in curves.values())
    caption = (
        "Length of each weighted term's gradient in the peers' means, on a training batch, as a share of the cross-entropy's; "
        f"median over the finished repeats of each arm, {n} seeds per arm. Below the dotted line, {DEAD_SHARE:.0%}, a term all "
        f"but does not act. The marker on a curve is the arm's switch.{_unmeasured(curves)}"
    )
    return html.figure(panels, caption, html.legend({arm: styles[arm] for arm in curves}))


def _unmeasured(curves: Mapping[str, list[Curve]]) -> str:
    """Say where no point lies in stage two; nothing where one does, or none could."""
    late = [curve for several in curves.values() for curve in several if curve.switch is not None]
    if not late or any((curve.points > curve.switch).any() for curve in late):
        return ""
    return (
        " No point lies after the switch, so that nothing is known of the diversity terms: a new folder with --set "
        "gradient_points=1 has one in every epoch."
    )


def _shares(several: Sequence[Curve], term: str) -> Mean | None:
    """The median over seeds, which has no error, where a term's share was measured in every seed; None without any."""
    known = [
        dict(zip(curve.points[(kept := curve.shares[term] > 0)], curve.shares[term][kept], strict=True)) for curve in several
    ]
    common = sorted(set.intersection(*map(set, measured))) if (measured := [found for found in known if found]) else []
    values = np.array([[found[at] for at in common] for found in measured])
    return Mean(np.array(common), np.median(values, axis=0), np.full(len(common), np.nan)) if common else None


def _last(curves: Mapping[str, list[Curve]]) -> int:
    return max(int(curve.epoch.max()) + 1 for several in curves.values() for curve in several)


def zoom(curves: Mapping[str, list[Curve]]) -> int:
    """Choose the epoch where the enlarged part begins: the earliest switch, at the latest two thirds of the epochs."""
    found = [switch for several in curves.values() for switch in switches(several)]
    return max(1, min([*found, _last(curves) * 2 // 3]))


def _caption(what: str, curves: Mapping[str, list[Curve]]) -> str:
    band = ""
    if len(curves) > BAND_ARMS:
        band = f" (standard errors are not drawn for more than {BAND_ARMS} arms)"
    elif any(len(several) > 1 for several in curves.values()):
        band = " with one standard error either way as a band"
    text = f"{what}; mean over the finished repeats of each arm, {counted(map(len, curves.values()))} seeds per arm{band}."
    if any(switches(several) for several in curves.values()):
        text += " The marker on a curve is the arm's switch: from there on the diversity terms act."
    lengths = {int(curve.epoch.max()) for several in curves.values() for curve in several}
    if len(lengths) > 1:
        text += " Not all repeats have the same number of epochs: at each epoch the mean is over those that reached it."
    return text


def counted(seeds: Iterable[int]) -> str:
    """Say of how many seeds the arms' means are: one number, or the least and the most."""
    counts = sorted(set(seeds))
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _panel(
    title: str, name: str, by_arm: Mapping[str, Mean], curves: Mapping[str, list[Curve]], styles: Mapping[str, Style],
    scale: str, factor: float, first: int = 0, level: float | None = None,
) -> Markup:  # fmt: skip
    def draw(axes: Axes) -> None:
        _lines(axes, title, by_arm, curves, styles, scale, factor, first, level)

    return svg.panel(name, f"{title} against epochs trained, {len(by_arm)} arms", draw)


def _lines(
    axes: Axes, title: str, by_arm: Mapping[str, Mean], curves: Mapping[str, list[Curve]], styles: Mapping[str, Style],
    scale: str, factor: float, first: int = 0, level: float | None = None,
) -> None:  # fmt: skip
    """Draw the arms' curves from epoch ``first`` on, and a dotted line at ``level``."""
    seen: list[np.ndarray] = []
    for arm, mean in by_arm.items():
        part = mean.epoch >= first
        middle, error = factor * mean.mean[part], factor * mean.error[part]
        seen += line(axes, mean.epoch[part], middle, error, styles[arm], len(by_arm))
        for switch in switches(curves[arm]):
            _mark(axes, mean.epoch[part], middle, switch, styles[arm])
    if level is not None:
        axes.axhline(level, color="0.5", linestyle=":", linewidth=0.9)
        seen.append(np.array([level]))
        if len({*np.concatenate([mean.epoch for mean in by_arm.values()])}) == 1:  # it stands where it is in the training
            axes.set_xlim(0, _last(curves))
    _limits(axes, np.concatenate(seen), scale)
    axes.set_title(title)
    axes.set_xlabel("epochs trained")
    axes.locator_params(axis="x", nbins=6, integer=True)


def line(axes: Axes, x: np.ndarray, mean: np.ndarray, error: np.ndarray, style: Style, arms: int) -> list[np.ndarray]:
    """Draw a curve, and its band where there are no more than BAND_ARMS arms; return every height drawn."""
    _curve(axes, x, mean, style)
    if arms > BAND_ARMS or not np.isfinite(error).any():
        return [mean]
    axes.fill_between(x, mean - error, mean + error, color=style.color, alpha=0.14, linewidth=0)
    return [mean, mean - error, mean + error]


def _curve(axes: Axes, x: np.ndarray, y: np.ndarray, style: Style) -> None:
    """Draw a curve; one point alone, of which a line shows nothing, as a dot."""
    axes.plot(x, y, color=style.color, linestyle=style.linestyle, marker="." if len(x) == 1 else None)


def _mark(axes: Axes, x: np.ndarray, y: np.ndarray, switch: int, style: Style) -> None:
    if len(x) and x[0] <= switch <= x[-1]:
        axes.plot([switch], np.interp([switch], x, y), marker=style.marker, color=style.color, markersize=5.5)


def _limits(axes: Axes, seen: np.ndarray, scale: str) -> None:
    heights = seen[np.isfinite(seen) & ((seen > 0) | (scale == "linear"))]
    if not len(heights):
        return
    low, high = float(heights.min()), float(heights.max())
    if scale == "log":
        svg.logarithmic(axes, low, high)
    else:
        air = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - air, high + air)
        axes.locator_params(axis="y", nbins=6)
