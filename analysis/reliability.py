"""Reliability diagrams: one panel per arm, the pair's predictions pooled over seeds, with counts, gaps and ECE."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.calibration import BINS, Reliability, reliability
from analysis.load import StudyData
from analysis.statistics import summarize

ACCURACY, GAP, COUNT = "#0072B2", "#E69F00", "#999999"
COLUMNS = 4


def draw(study: StudyData, nulls: dict[str, float], out: Path) -> list[Path]:
    """reliability.png and .pdf in ``out``: nothing when no arm has predictions."""
    frames = {arm: frames for arm in study.arms if (frames := study.predictions(arm))}
    if not frames:
        return []
    figure = _figure(study, frames, nulls)
    paths = [out / "reliability.png", out / "reliability.pdf"]
    FigureCanvasAgg(figure).print_png(str(paths[0]), metadata={"Software": None})
    FigureCanvasPdf(figure).print_pdf(str(paths[1]), metadata={"CreationDate": None})
    return paths


def _figure(study: StudyData, frames: dict[str, dict[int, pd.DataFrame]], nulls: dict[str, float]) -> Figure:
    columns = min(COLUMNS, len(frames))
    rows = math.ceil(len(frames) / columns)
    figure = Figure(
        figsize=(3.1 * columns + 0.6, 3.6 * rows + 1.1),
        dpi=130,
        layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, hspace=0.04),
    )
    figure.suptitle(f"{study.header['name']}: reliability of the pair on test data, seeds pooled", fontsize=11)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[3, 1] * rows)
    for place, (arm, by_seed) in enumerate(frames.items()):
        row, column = divmod(place, columns)
        top = figure.add_subplot(grid[2 * row, column])
        bottom = figure.add_subplot(grid[2 * row + 1, column], sharex=top)
        _panel(top, bottom, arm, by_seed, nulls.get(arm), first=column == 0)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def _panel(top: Axes, bottom: Axes, arm: str, by_seed: dict[int, pd.DataFrame], null: float | None, first: bool) -> None:
    pooled = pd.concat(by_seed.values())
    bins = _bins(pooled)
    centers, width = (np.arange(BINS) + 0.5) / BINS, 1 / BINS
    filled = bins.count > 0
    x, accuracy, confidence = centers[filled], bins.accuracy[filled], bins.confidence[filled]
    top.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="perfectly calibrated")
    top.bar(x, accuracy, width, color=ACCURACY, edgecolor="white", linewidth=0.4, label="accuracy")
    top.bar(
        x, confidence - accuracy, width, bottom=accuracy, color="none", edgecolor=GAP, hatch="////", linewidth=0.8,
        label="gap to confidence",
    )  # fmt: skip
    top.set(xlim=(0, 1), ylim=(0, 1.0))
    eces = summarize([100 * _bins(frame).ece for frame in by_seed.values()])
    assert eces is not None
    error = f" ± {eces.error:.2f}" if eces.error is not None else ""
    calibrated = f", calibrated: {null:.2f} %" if null is not None else ""
    top.set_title(f"{arm}\n", fontsize=10)
    top.text(
        0.5, 1.03, f"ECE {eces.mean:.2f}{error} % (n = {eces.n}){calibrated}", transform=top.transAxes, ha="center", fontsize=8
    )
    bottom.bar(centers, bins.count / bins.count.sum(), width, color=COUNT, edgecolor="white", linewidth=0.4)
    bottom.set(ylim=(0, 1))
    bottom.text(0.04, 0.9, f"{bins.count.sum():,} predictions", transform=bottom.transAxes, va="top", fontsize=8)
    bottom.set_xlabel("confidence", fontsize=9)
    top.tick_params(labelbottom=False, labelsize=8)
    bottom.tick_params(labelsize=8)
    if first:
        top.set_ylabel("accuracy", fontsize=9)
        bottom.set_ylabel("share", fontsize=9)


def _bins(frame: pd.DataFrame) -> Reliability:
    return reliability(frame["confidence"].to_numpy(), (frame["predicted"] == frame["label"]).to_numpy())
