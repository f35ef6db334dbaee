"""Draw reliability diagrams: a panel per arm, seeds pooled, before and after temperature scaling, and what chance gives."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from analysis.figures import html, palette, svg
from analysis.figures.palette import Style
from analysis.records.load import StudyData
from analysis.records.repeats import ByArm, BySeed
from analysis.stats.calibration import BINS, Reliability, consistency_band, null_ece, reliability
from analysis.stats.statistics import Summary, summarize

COLUMNS = 4
BAND = "#8a8d91"
#: Fewer pooled predictions in a bin than this say nothing; it is left out.
LEAST_PREDICTIONS = 10
#: Draws for the band; its quantiles are drawn a few points wide.
DRAWS = 500


@dataclass(frozen=True)
class Diagram:
    """An arm's reliability diagram, pooled over seeds and members.

    raw, scaled: before and after temperature scaling; band: of calibrated models, [2, 15]; ece, scaled_ece: in percent, over
    seeds. scaled, scaled_ece: None where nothing was scaled.
    """

    raw: Reliability
    scaled: Reliability | None
    band: np.ndarray
    ece: Summary
    scaled_ece: Summary | None


def diagram(by_seed: BySeed) -> Diagram:
    """Compute an arm's diagram; a seed's ECE is the mean of its members'."""
    each = [member for members in by_seed.values() for member in members]
    correct = np.concatenate([member.correct for member in each])
    confidence = np.concatenate([member.confidence for member in each])
    scaled = [member.scaled_confidence for member in each if member.scaled_confidence is not None]
    fitted = len(scaled) == len(each) and bool(np.isfinite(np.concatenate(scaled)).all())
    return Diagram(
        reliability(confidence, correct),
        reliability(np.concatenate(scaled), correct) if fitted else None,
        consistency_band(_typical(confidence, len(each)), DRAWS),
        _ece(by_seed, "confidence"),
        _ece(by_seed, "scaled_confidence") if fitted else None,
    )


def _ece(by_seed: BySeed, name: str) -> Summary:
    eces = [
        100 * float(np.mean([reliability(getattr(member, name), member.correct).ece for member in members]))
        for members in by_seed.values()
    ]
    summary = summarize(eces)
    assert summary is not None
    return summary


def _typical(confidence: np.ndarray, parts: int) -> np.ndarray:
    """Return confidences of one test set, spread as the pooled ones of ``parts``: every parts-th in ascending order.

    All seeds share their test images, so pooling them narrows chance far less than as many more images would. The band is
    that of one test set.
    """
    return np.sort(confidence)[parts // 2 :: parts]


def panels(study: StudyData, predictions: ByArm, nulls: Mapping[str, float], styles: Mapping[str, Style]) -> list[Markup]:
    """Draw a small figure per arm with predictions, each with its name, ECE and what a calibrated model would score.

    Arguments are those of `draw`; styles: by arm.
    """
    found = []
    for place, arm in enumerate(arm for arm in study.arms if predictions.get(arm)):
        shown = diagram(predictions[arm])
        with svg.style():
            figure = svg.canvas(285, 240, layout="none")  # the same margins in every panel
            axes = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
            figure.subplots_adjust(left=0.2, right=0.97, top=0.98, bottom=0.13, hspace=0.12)
            _draw(axes[0], axes[1], shown, styles[arm])
            axes[0].set_ylabel("accuracy")
            axes[1].set(xlabel="confidence", ylabel="count")
            drawn = svg.svg(figure, f"reliability-{place}", f"Reliability diagram of {arm}, ECE {shown.ece.mean:.2f} %")
        text = Markup('<p class="name">{}</p>{}<p class="note">{}</p>').format(arm, drawn, _words(shown, nulls.get(arm)))
        found.append(text)
    return found


def draw(study: StudyData, predictions: ByArm, nulls: Mapping[str, float], out: Path) -> list[Path]:
    """Write reliability.png and .pdf into ``out`` and return their paths; nothing when no arm has predictions.

    predictions: by arm and seed, of the arm's members; nulls: by arm, the ECE of a calibrated model in percent.
    """
    diagrams = {arm: diagram(predictions[arm]) for arm in study.arms if predictions.get(arm)}
    if not diagrams:
        return []
    with svg.style():
        title = f"{study.header.name}: reliability on test data, seeds pooled"
        words = {arm: _short(shown, nulls.get(arm)) for arm, shown in diagrams.items()}
        return svg.files(_file(title, diagrams, words, svg.arm_styles(study)), out, "reliability")


def plot(predictions: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str = "") -> Figure:
    """Draw reliability diagrams of any predictions, a panel for each name, as a matplotlib figure: ``.savefig("name.png")``.

    predictions: by name, the probability of the predicted class and whether that is the label, [images] each. A panel says
    the ECE over 15 bins, and the mean ECE of a calibrated model with these confidences.

    ValueError: no predictions, other shapes, or confidences that are no probabilities.
    """
    if not isinstance(predictions, Mapping) or not predictions:
        raise ValueError(f"no predictions by name in a {type(predictions).__name__}: give {{name: (confidence, correct)}}")
    diagrams, words = {}, {}
    for name, given in ((str(name), given) for name, given in predictions.items()):
        confidence, correct = _checked(name, given)
        bins = reliability(confidence, correct)
        diagrams[name] = Diagram(bins, None, consistency_band(confidence, DRAWS), Summary(100 * bins.ece, None, 1), None)
        calibrated = f"ECE {100 * bins.ece:.2f} %; if calibrated {100 * null_ece(confidence):.2f} %"
        words[name] = f"{calibrated}\n{len(confidence):,} predictions"
    with svg.style():
        return _file(title, diagrams, words, {name: palette.style(place) for place, name in enumerate(diagrams, 1)})


def _checked(name: str, given: tuple[ArrayLike, ArrayLike]) -> tuple[np.ndarray, np.ndarray]:
    if not np.iterable(given) or len(given) != 2:
        raise ValueError(f"{name}: expected (confidence, correct), not a {type(given).__name__}")
    try:
        sure, right = np.asarray(given[0], float), np.asarray(given[1])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None
    if sure.ndim != 1 or not len(sure) or sure.shape != right.shape:
        raise ValueError(
            f"{name}: confidence and correct must be [images] each, not {list(sure.shape)} and {list(right.shape)}"
        )
    if not ((sure >= 0) & (sure <= 1)).all() or not np.isin(right, (0, 1)).all():
        raise ValueError(f"{name}: a confidence is a probability, from 0 to 1, and correct is True or False")
    return sure, right


def _file(title: str, diagrams: Mapping[str, Diagram], words: Mapping[str, str], styles: Mapping[str, Style]) -> Figure:
    columns = min(COLUMNS, len(diagrams))
    rows = math.ceil(len(diagrams) / columns)
    size = (3.1 * columns + 0.6, 3.6 * rows + 1.1)
    figure = Figure(figsize=size, dpi=130, layout="constrained", facecolor="white")
    figure.suptitle(textwrap.fill(title, 45 * columns), fontsize=11)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[3.2, 1] * rows)
    for place, (arm, shown) in enumerate(diagrams.items()):
        row, column = divmod(place, columns)
        top = figure.add_subplot(grid[2 * row, column])
        bottom = figure.add_subplot(grid[2 * row + 1, column], sharex=top)
        _draw(top, bottom, shown, styles[arm])
        top.set_title(f"{textwrap.fill(arm, 38)}\n{words[arm]}", fontsize=8.5, loc="center", parse_math=False)
        bottom.set_xlabel("confidence")
        if column == 0:
            top.set_ylabel("accuracy")
            bottom.set_ylabel("count")
    scaled = any(shown.scaled for shown in diagrams.values())
    legend_columns = (1, 2, 4, 4)[columns - 1]
    figure.legend(handles=_handles(scaled), loc="outside lower center", ncols=legend_columns, fontsize=9, frameon=False)
    return figure


def _draw(top: Axes, bottom: Axes, shown: Diagram, style: Style) -> None:
    edges, centers = np.linspace(0, 1, BINS + 1), (np.arange(BINS) + 0.5) / BINS
    top.fill_between(np.repeat(edges, 2)[1:-1], *np.repeat(shown.band, 2, axis=1), color=BAND, alpha=0.35, linewidth=0)
    top.plot([0, 1], [0, 1], color=svg.INK, linewidth=0.8, linestyle="--")
    for bins, line, face in ((shown.scaled, ":", svg.PAPER), (shown.raw, "-", style.color)):
        if bins is None:
            continue
        some = bins.count >= LEAST_PREDICTIONS
        top.plot(bins.confidence[some], bins.accuracy[some], color=style.color, linestyle=line, marker="o", markersize=4,
                 markerfacecolor=face)  # fmt: skip
    top.set(xlim=(0, 1), ylim=(0, 1.02))
    bottom.bar(centers, shown.raw.count, 1 / BINS, color=style.color, edgecolor=svg.PAPER, linewidth=0.4)
    bottom.set_ylim(0, 1.08 * shown.raw.count.max())
    bottom.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    bottom.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    top.tick_params(labelbottom=False)


def _handles(scaled: bool) -> list[Line2D | Patch]:
    line = partial(Line2D, [], [], color=svg.INK)
    return [
        line(marker="o", markersize=4, label=f"as it is, bins of {LEAST_PREDICTIONS} predictions or more"),
        *([line(linestyle=":", marker="o", markersize=4, markerfacecolor="white", label="after temperature scaling")] * scaled),
        line(linewidth=0.8, linestyle="--", label="accuracy = confidence"),
        Patch(color=BAND, alpha=0.35, linewidth=0, label="95 % of calibrated models, by bin"),
    ]


def _short(shown: Diagram, null: float | None) -> str:
    calibrated = f"; if calibrated {null:.2f} %" if null is not None else ""
    scaled = f"scaled {shown.scaled_ece.text(2)} %; " if shown.scaled_ece else ""
    return f"ECE {shown.ece.text(2)} %{calibrated}\n{scaled}n = {shown.ece.n}"


def _words(shown: Diagram, null: float | None) -> str:
    calibrated = f", {null:.2f} % if calibrated" if null is not None else ""
    scaled = f"; {shown.scaled_ece.text(2)} % after scaling" if shown.scaled_ece else ""
    return html.unbroken(f"ECE {shown.ece.text(2)} %{calibrated}{scaled}")
