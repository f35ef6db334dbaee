"""What a study's own kind of question adds to its answer and report: a response surface, a Pareto front, growth with size."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from analysis.figures import html, pareto, svg
from analysis.figures.contours import draw_surface
from analysis.records.load import StudyData
from analysis.report import sizes
from analysis.report.page import Section
from analysis.stats.surface import LEAST, PAPER, Surface, fit_surface
from mldiv.records import TrialRecord


@dataclass(frozen=True)
class Finding:
    """A section of the report, its sentence in the answer (Markdown), its figure as files."""

    section: Section
    answer: str | None = None
    draw: Callable[[Path], list[Path]] | None = None  # its figure as files in a folder


def findings(study: StudyData) -> list[Finding]:
    """All that this study's records allow."""
    made = (_surfaces(study), _front(study), _growth(study))
    return [one for one in made if one is not None]


def _surfaces(study: StudyData) -> Finding | None:
    """Validation NLL and accuracy over alpha and beta, from the searched trials."""
    searched = study.header.get("surface")
    arm = next((arm for arm in study.arms if {"alpha", "beta"} <= set(study.header["searched"].get(arm, []))), None)
    if not searched or arm is None:
        return None
    trials = [record for name, record in study.searched if name == arm and record.status == "finished"]
    points = sorted({_weights(record) for record in trials})
    if len(points) < LEAST:
        missing = f"A response surface over alpha and beta needs at least {LEAST} finished points, there are {len(points)}."
        return Finding(Section("Response surface", html.paragraph(missing)), missing)
    nll = fit(points, trials, lambda record: record.validation["pair"]["nll"], searched)
    error = fit(points, trials, lambda record: 100 * (1 - record.validation["pair"]["accuracy"]), searched)
    caption = (
        f"Validation scores of {len(trials)} searched trials: {len(points)} pairs of alpha and beta, each trained with "
        f"{len(study.header.get('search_seeds', [0]))} seeds, whose own levels are taken out. Colour: posterior mean of a "
        "Gaussian process (Matérn 5/2, hyperparameters averaged over). White outline: where the optimum lies with 90 %. "
        "Points: trials; 0 stands left of the break in each axis; the star marks the paper's alpha = 1, beta = 2."
    )
    shown = {"validation NLL": nll}
    panels = [_draw(nll, "nll-surface", "validation NLL")]
    by_accuracy = "all searched points have the same validation accuracy, so it draws no surface."
    if np.ptp(error.value) > 1e-6:
        shown["validation error, %"] = error
        panels.append(_draw(error, "error-surface", "validation error, %"))
        by_accuracy = words(error, " points", 2)
    body = html.figure(panels, caption, kind="pairs") + html.paragraph(f"By accuracy: {by_accuracy}")
    said = f"**The balance**, by validation NLL: {words(nll, '', 4)}"
    return Finding(Section("Response surface", body), said, partial(_files, study.header["name"], shown))


def _files(study: str, surfaces: dict[str, Surface], out: Path) -> list[Path]:
    """surface.png and .pdf."""
    with svg.style():
        figure = Figure(figsize=(5.2 * len(surfaces), 4.3), dpi=130, layout="constrained", facecolor="white")
        figure.suptitle(f"{study}: posterior mean over alpha and beta; 0 lies beyond the breaks", fontsize=11)
        for column, (title, surface) in enumerate(surfaces.items(), start=1):
            draw_surface(figure.add_subplot(1, len(surfaces), column), surface, value_name=title)
        return svg.files(figure, out, "surface")


def _weights(record: TrialRecord) -> tuple[float, float]:
    return record.config["alpha"], record.config["beta"]


def fit(
    points: list[tuple[float, float]],
    trials: list[TrialRecord],
    score: Callable[[TrialRecord], float | None],
    searched: dict[str, Any],
) -> Surface:
    """The surface of a score over the points; rows of scores by seed."""
    seeds = sorted({record.config["seed"] for record in trials})
    values = np.full((len(points), len(seeds)), np.nan)
    for record in trials:
        value = score(record)
        if value is not None:
            values[points.index(_weights(record)), seeds.index(record.config["seed"])] = value
    alpha, beta = np.array(points).T
    with threadpool_limits(1):  # small matrices: several threads only wait for each other
        return fit_surface(
            alpha, beta, values if len(seeds) > 1 else values[:, 0], alpha_range=tuple(searched["alpha"]),
            beta_range=tuple(searched["beta"]),
        )  # fmt: skip


def words(surface: Surface, unit: str, digits: int) -> str:
    """Where the optimum lies, how sure that is, and what the paper's weights lose."""
    alpha, beta = (_range(*interval) for interval in (surface.alpha_interval, surface.beta_interval))
    paper = f"The paper's ({PAPER[0]:g}, {PAPER[1]:g}) lies {'inside' if surface.inside else 'outside'} that region"
    loss = surface.gain
    paper += (
        f"; the surface's best point is better by {loss.mean:.{digits}f} [{loss.low:.{digits}f}, {loss.high:.{digits}f}]{unit} "
        "than it (90 %)."
    )
    if not surface.located:
        why = (
            f"the surface cannot be told from a flat one (p = {surface.p_flat:.2g})" if surface.p_flat > 0.05
            else f"the region in which it lies with 90 % covers {surface.share:.0%} of what was searched"
        )  # fmt: skip
        return f"the data do not locate an optimum: {why}. {paper}"
    return (
        f"alpha in {alpha}, beta in {beta} with 90 % each; the joint region covers {surface.share:.0%} of what was searched. "
        f"{paper}"
    )


def _range(low: float, high: float) -> str:
    return f"[{low:.2g}, {high:.2g}]"


def _draw(surface: Surface, name: str, title: str) -> Markup:
    def draw(axes: Axes) -> None:
        draw_surface(axes, surface, value_name=title)

    return _panel(name, f"Response surface of {title} over alpha and beta", draw)


def _panel(name: str, label: str, draw: Callable[[Axes], None], height: float = 240.0) -> Markup:
    with svg.style():
        figure = svg.canvas(height)
        draw(figure.add_subplot())
        return svg.svg(figure, name, label)


def _front(study: StudyData) -> Finding | None:
    """NLL against ECE of the searched trials, where the search had both as objectives."""
    objectives = study.header.get("objectives", [])
    if len(objectives) < 2:
        return None
    by_arm: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for arm, record in study.searched:
        if record.status == "finished":
            scores = [record.validation["pair"][name] for name in objectives[:2]]
            key = str(sorted((name, value) for name, value in record.config.items() if name != "seed"))
            if None not in scores:
                by_arm[arm][key].append(scores)
    points = [(arm, np.mean(rows, axis=0)) for arm, of_arm in by_arm.items() for rows in of_arm.values()]
    if not points:
        return None
    values = np.array([value for _, value in points])
    styles = svg.arm_styles(study)

    def draw(axes: Axes) -> None:
        pareto.draw_front(axes, values[:, 0], values[:, 1], labels=[arm for arm, _ in points], styles=styles)
        axes.set(xlabel=f"validation {objectives[0].upper()}", ylabel=f"validation {objectives[1].upper()}")

    mask = pareto.pareto(values)
    caption = (
        f"{len(points)} searched settings of {len(by_arm)} arms, mean over search seeds. Line: the Pareto front, settings that "
        "no other beats in both. Colours are the arms'."
    )
    rows = [(arm, *(f"{one:.4f}" for one in value)) for (arm, value), on in zip(points, mask, strict=True) if on]
    table = html.table(["arm", *(f"validation {name.upper()}" for name in objectives[:2])], sorted(rows, key=lambda r: r[1]))
    body = html.figure([_panel("front", "Pareto front", draw)], caption, html.legend(styles)) + table
    said = f"On the Pareto front of validation {' and '.join(name.upper() for name in objectives[:2])} lie {mask.sum()} of "
    return Finding(Section("Pareto front", body), f"{said}{len(points)} searched settings (report.html draws it).")


def _growth(study: StudyData) -> Finding | None:
    """Time and memory of a step against sizes, where the study measured them; what the terms would take at ViT-Huge."""
    if not study.scaling:
        return None
    grown = sizes.fits(study.scaling)
    body = html.figure([_panel(name, title, draw) for name, title, draw in sizes.panels(grown)], sizes.CAPTION)
    body += html.table(sizes.HEAD, sizes.rows(study.scaling)) + html.paragraph(sizes.words(grown))
    body += html.paragraph(sizes.ON_PAPER) + html.table(*sizes.huge())
    return Finding(Section("Growth with size", body), f"**Cost.** {sizes.words(grown)} {sizes.huge_words()}")
