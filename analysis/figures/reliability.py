"""Reliability diagrams: a panel per arm, seeds pooled, before and after temperature scaling, with what chance would do."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import svg
from analysis.figures.palette import Style
from analysis.records.load import Predictions, StudyData
from analysis.stats.calibration import BINS, Reliability, consistency_band, reliability
from analysis.stats.statistics import Summary, summarize

COLUMNS = 4
BAND = "#8a8d91"
#: Fewer pooled predictions in a bin than this say nothing; it is left out.
LEAST = 10
#: Draws for the band; its quantiles are drawn a few points wide.
DRAWS = 500

BySeed = Mapping[int, list[Predictions]]


@dataclass(frozen=True)
class Diagram:
    """raw, scaled: pooled over seeds and members, before and after temperature scaling; band [2, bins]: see `_typical`.
    ece, scaled_ece: in percent, over seeds; predictions: how many are pooled; images: of the test set."""

    raw: Reliability
    scaled: Reliability
    band: np.ndarray
    ece: Summary
    scaled_ece: Summary
    predictions: int
    images: int


def diagram(by_seed: BySeed) -> Diagram:
    """An arm's diagram; a seed's ECE is the mean of its members'."""
    each = [one for members in by_seed.values() for one in members]
    correct = np.concatenate([one.correct for one in each])
    confidence = np.concatenate([one.confidence for one in each])
    eces = [summarize([100 * float(np.mean([_ece(one, name) for one in members])) for members in by_seed.values()]) for name in
            ("confidence", "scaled_confidence")]  # fmt: skip
    assert eces[0] is not None and eces[1] is not None
    return Diagram(
        reliability(confidence, correct),
        reliability(np.concatenate([one.scaled_confidence for one in each]), correct),
        consistency_band(_typical(confidence, len(each)), draws=DRAWS),
        eces[0], eces[1], len(correct), len(each[0].label),
    )  # fmt: skip


def _ece(one: Predictions, name: str) -> float:
    return reliability(getattr(one, name), one.correct).ece


def _typical(confidence: np.ndarray, parts: int) -> np.ndarray:
    """Confidences of one test set, spread as the pooled ones of ``parts``: every parts-th in ascending order.

    All seeds share their test images, so pooling them narrows chance far less than as many more images would. The band is
    that of one test set.
    """
    return np.sort(confidence)[parts // 2 :: parts]


def panels(study: StudyData, predictions: Mapping[str, BySeed], nulls: Mapping[str, float], styles: Mapping[str, Style]) -> (
    list[Markup]
):  # fmt: skip
    """A small figure per arm with predictions, each with its name, ECE and what a calibrated model would score."""
    found = []
    for place, arm in enumerate(arm for arm in study.arms if predictions.get(arm)):
        one = diagram(predictions[arm])
        with svg.style():
            figure = svg.canvas(285, 240, layout="none")  # the same margins in every panel
            axes = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
            figure.subplots_adjust(left=0.17, right=0.97, top=0.98, bottom=0.13, hspace=0.12)
            _draw(axes[0], axes[1], one, styles[arm])
            axes[0].set_ylabel("accuracy")
            axes[1].set(xlabel="confidence", ylabel="share")
            drawn = svg.svg(figure, f"reliability-{place}", f"Reliability diagram of {arm}, ECE {one.ece.mean:.2f} %")
        text = Markup('<p class="name">{}</p>{}<p class="note">{}</p>').format(arm, drawn, _words(one, nulls.get(arm)))
        found.append(text)
    return found


def draw(study: StudyData, predictions: Mapping[str, BySeed], nulls: Mapping[str, float], out: Path) -> list[Path]:
    """reliability.png and .pdf in ``out``: nothing when no arm has predictions.

    predictions: by arm and seed, of the arm's members; nulls: by arm, the ECE of a calibrated model in percent.
    """
    diagrams = {arm: diagram(predictions[arm]) for arm in study.arms if predictions.get(arm)}
    if not diagrams:
        return []
    with svg.style():
        return svg.files(_file(study, diagrams, nulls), out, "reliability")


def _file(study: StudyData, diagrams: dict[str, Diagram], nulls: Mapping[str, float]) -> Figure:
    columns = min(COLUMNS, len(diagrams))
    rows = math.ceil(len(diagrams) / columns)
    size = (3.1 * columns + 0.6, 3.6 * rows + 1.1)
    figure = Figure(figsize=size, dpi=130, layout="constrained", facecolor="white")
    figure.suptitle(f"{study.header['name']}: reliability on test data, seeds pooled", fontsize=11)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[3.2, 1] * rows)
    styles = svg.arm_styles(study)
    for place, (arm, one) in enumerate(diagrams.items()):
        row, column = divmod(place, columns)
        top = figure.add_subplot(grid[2 * row, column])
        bottom = figure.add_subplot(grid[2 * row + 1, column], sharex=top)
        _draw(top, bottom, one, styles[arm])
        top.set_title(f"{textwrap.fill(arm, 38)}\n{_short(one, nulls.get(arm))}", fontsize=8.5, loc="center", parse_math=False)
        bottom.set_xlabel("confidence")
        if column == 0:
            top.set_ylabel("accuracy")
            bottom.set_ylabel("share")
    figure.legend(handles=_handles(), loc="outside lower center", ncols=2 if columns < 3 else 4, fontsize=9, frameon=False)
    return figure


def _draw(top: Axes, bottom: Axes, one: Diagram, style: Style) -> None:
    edges, centers = np.linspace(0, 1, BINS + 1), (np.arange(BINS) + 0.5) / BINS
    low, high = (np.append(end, end[-1]) for end in one.band)
    top.fill_between(edges, low, high, step="post", color=BAND, alpha=0.35, linewidth=0)
    top.plot([0, 1], [0, 1], color=svg.INK, linewidth=0.8, linestyle="--")
    for bins, line, face in ((one.scaled, ":", svg.PAPER), (one.raw, "-", style.color)):
        some = bins.count >= LEAST
        top.plot(bins.confidence[some], bins.accuracy[some], color=style.color, linestyle=line, marker="o", markersize=4,
                 markerfacecolor=face)  # fmt: skip
    top.set(xlim=(0, 1), ylim=(0, 1.02))
    bottom.bar(centers, one.raw.count / one.raw.count.sum(), 1 / BINS, color=style.color, edgecolor=svg.PAPER, linewidth=0.4)
    bottom.set_ylim(0, 1)
    top.tick_params(labelbottom=False)


def _handles() -> list[Line2D | Patch]:
    ink = svg.INK
    return [
        Line2D([], [], color=ink, marker="o", markersize=4, label="as it is"),
        Line2D(
            [],
            [],
            color=ink,
            linestyle=":",
            marker="o",
            markersize=4,
            markerfacecolor="white",
            label="after temperature scaling",
        ),
        Line2D([], [], color=ink, linewidth=0.8, linestyle="--", label="accuracy = confidence"),
        Patch(color=BAND, alpha=0.35, linewidth=0, label="95 % of calibrated models, by bin"),
    ]


def _short(one: Diagram, null: float | None) -> str:
    calibrated = f"; if calibrated {null:.2f} %" if null is not None else ""
    return f"ECE {_percent(one.ece)}{calibrated}\nscaled {_percent(one.scaled_ece)}; n = {one.ece.n}"


def _words(one: Diagram, null: float | None) -> str:
    calibrated = f"; a calibrated model would score {null:.2f} %" if null is not None else ""
    size = f"n = {one.ece.n}, {one.images:,} images"
    return f"ECE {_percent(one.ece)}{calibrated}; after scaling {_percent(one.scaled_ece)} ({size})"


def _percent(summary: Summary) -> str:
    return f"{summary.mean:.2f}{f' ± {summary.error:.2f}' if summary.error is not None else ''} %"
