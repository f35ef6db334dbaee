"""Add what a study's own kind of question asks for: a response surface, a Pareto front, growth of costs and effects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from analysis.figures import html, svg
from analysis.records.load import StudyData
from analysis.records.repeats import Repeats
from analysis.report import sizes, trends
from analysis.report.page import Section
from analysis.report.searches import draw_front, draw_surface, pareto
from analysis.stats.surface import FLAT_LEVEL, LEAST_TRIALS, PAPER, Surface, fit_surface
from mldiv.records.contents import TrialRecord

#: Of a panel, in points.
HEIGHT = 240


@dataclass(frozen=True)
class Finding:
    """A section of the report by its title, its sentences in the answer (Markdown), and two functions: one makes the section's
    HTML, the other writes its figure to a folder."""

    title: str
    answer: list[str]
    body: Callable[[], str]
    draw: Callable[[Path], list[Path]] | None = None

    @property
    def section(self) -> Section:
        """The section, drawn whenever it is asked for."""
        return Section(self.title, self.body())


def findings(study: StudyData, repeats: Repeats) -> list[Finding]:
    """Return all that this study's records allow."""
    every = _surfaces(study), _front(study), _growth(study), _trends(study, repeats)
    return [finding for finding in every if finding is not None]


def _surfaces(study: StudyData) -> Finding | None:
    """Fit validation NLL and accuracy over alpha and beta, from the searched trials."""
    searched = study.header.surface
    arm = next((arm for arm in study.arms if {"alpha", "beta"} <= set(study.header.searched.get(arm, []))), None)
    if not searched or arm is None:
        return None
    trials = [record for name, record in study.searched if name == arm and record.status == "finished"]
    points = sorted({_weights(record) for record in trials})
    if len(points) < LEAST_TRIALS:
        return _no_surface(f"needs at least {LEAST_TRIALS} finished points, there are {len(points)}")
    try:
        nll = fit(points, trials, lambda record: record.validation["pair"]["nll"], searched)
        error = fit(points, trials, lambda record: 100 * (1 - record.validation["pair"]["accuracy"]), searched)
    except ValueError as error_of_fit:
        return _no_surface(f"cannot be fitted to the {len(points)} finished points: {error_of_fit}")
    caption = (
        f"Validation scores of {len(trials)} searched trials: {len(points)} pairs of alpha and beta, each trained with "
        f"{len(study.header.search_seeds)} seeds, whose own levels are taken out. Colour: posterior mean of a "
        "Gaussian process (Matérn 5/2, hyperparameters averaged over). White outline: where the optimum lies with 90 %. "
        "Points: trials; 0 stands left of the break in each axis; the star marks the paper's alpha = 1, beta = 2."
    )
    shown = {"validation NLL": nll}
    by_accuracy = "all searched points have the same validation accuracy, so it draws no surface."
    if np.ptp(error.value) > 1e-6:
        shown["validation error, %"] = error
        by_accuracy = words(error, " points", 2)

    def body() -> str:
        panels = [_draw(surface, f"{title.split()[1].strip(',').lower()}-surface", title) for title, surface in shown.items()]
        return html.figure(panels, caption, kind="pairs") + html.paragraph(f"By accuracy: {by_accuracy}")

    said = f"**The balance**, by validation NLL: {words(nll, '', 4)}"
    return Finding("Response surface", [said], body, partial(_files, study.header.name, shown))


def _no_surface(why: str) -> Finding:
    said = f"A response surface over alpha and beta {why}."
    return Finding("Response surface", [said], lambda: html.paragraph(said))


def _files(study: str, surfaces: dict[str, Surface], out: Path) -> list[Path]:
    with svg.style():
        figure = Figure(figsize=(5.2 * len(surfaces), 4.3), dpi=130, layout="constrained", facecolor="white")
        figure.suptitle(f"{study}: posterior mean over alpha and beta; 0 lies beyond the breaks", fontsize=11)
        for column, (title, surface) in enumerate(surfaces.items(), start=1):
            draw_surface(figure.add_subplot(1, len(surfaces), column), surface, title)
        return svg.files(figure, out, "surface")


def _weights(record: TrialRecord) -> tuple[float, float]:
    return record.config["alpha"], record.config["beta"]


def fit(
    points: list[tuple[float, float]], trials: list[TrialRecord], score: Callable[[TrialRecord], float | None],
    searched: dict[str, Any],
) -> Surface:  # fmt: skip
    """Fit the surface of a score over the points, pairs of alpha and beta.

    score: of a trial, None where it has none; searched: ranges by setting, "alpha" and "beta".
    """
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
    """Say where the optimum lies, how sure that is, and what the paper's weights lose.

    unit: after a difference of scores; digits: of one.
    """
    gain, inside = surface.gain, "inside" if surface.inside else "outside"
    paper = (
        f"The paper's ({PAPER[0]:g}, {PAPER[1]:g}) lies {inside} that region; the surface's best point is better by "
        f"{gain.mean:.{digits}f} [{gain.low:.{digits}f}, {gain.high:.{digits}f}]{unit} than it (90 %)."
    )
    if surface.located:
        alpha, beta = (f"[{low:.2g}, {high:.2g}]" for low, high in (surface.alpha_interval, surface.beta_interval))
        return (
            f"alpha in {alpha}, beta in {beta} with 90 % each; the joint region covers {surface.share:.0%} of what was "
            f"searched. {paper}"
        )
    if surface.p_flat > FLAT_LEVEL:
        why = f"the surface cannot be told from a flat one (p = {surface.p_flat:.2g})"
    else:
        why = f"the region in which it lies with 90 % covers {surface.share:.0%} of what was searched"
    return f"the data do not locate an optimum: {why}. {paper}"


def _draw(surface: Surface, name: str, title: str) -> Markup:
    label = f"Response surface of {title} over alpha and beta"
    return svg.panel(name, label, lambda axes: draw_surface(axes, surface, title), HEIGHT)


def _front(study: StudyData) -> Finding | None:
    """Draw NLL against ECE of the searched settings, where the search had both as objectives."""
    objectives = study.header.objectives[:2]
    settings = _searched_settings(study, objectives) if len(objectives) == 2 else []
    if not settings:
        return None
    arms, scores = [arm for arm, _ in settings], np.array([values for _, values in settings])
    styles, titles = svg.arm_styles(study), [f"validation {name.upper()}" for name in objectives]

    def draw(axes: Axes) -> None:
        draw_front(axes, scores[:, 0], scores[:, 1], labels=arms, styles=styles)
        axes.set(xlabel=titles[0], ylabel=titles[1])

    on_front = [settings[index] for index in np.flatnonzero(pareto(scores))]
    rows = sorted(((arm, *(f"{value:.4f}" for value in values)) for arm, values in on_front), key=lambda row: row[1])
    caption = (
        f"{len(settings)} searched settings of {len(set(arms))} arms, mean over search seeds. Line: the Pareto front, settings "
        "that no other beats in both. Colours are the arms'."
    )

    def body() -> str:
        panel = svg.panel("front", "Pareto front", draw, HEIGHT)
        return html.figure([panel], caption, html.legend(styles)) + html.table(["arm", *titles], rows)

    said = (
        f"On the Pareto front of validation {' and '.join(map(str.upper, objectives))} lie {len(on_front)} of {len(settings)} "
        "searched settings (report.html draws it)."
    )
    return Finding("Pareto front", [said], body)


def _searched_settings(study: StudyData, objectives: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Return every finished setting of the searches, arm by arm: its arm and its objectives' means over search seeds."""
    by_arm: dict[str, dict[str, list[list[Any]]]] = {}
    for arm, record in study.searched:
        if record.status == "finished":
            scores = [record.validation["pair"].get(name) for name in objectives]
            setting = str(sorted((name, value) for name, value in record.config.items() if name != "seed"))
            if None not in scores:
                by_arm.setdefault(arm, {}).setdefault(setting, []).append(scores)
    return [(arm, np.mean(scores, axis=0)) for arm, of_arm in by_arm.items() for scores in of_arm.values()]


def _growth(study: StudyData) -> Finding | None:
    """Draw time and memory of a step against sizes, where the study measured them; add what ViT-Huge would take."""
    if not study.scaling:
        return None
    grown = sizes.fits(study.scaling)

    def body() -> str:
        drawn = html.figure([svg.panel(name, title, draw, HEIGHT) for name, title, draw in sizes.panels(grown)], sizes.CAPTION)
        drawn += html.table(sizes.HEAD, sizes.rows(study.scaling)) + html.paragraph(sizes.words(grown))
        return drawn + html.paragraph(sizes.ON_PAPER) + html.table(*sizes.huge())

    return Finding("Growth with size", [f"**Cost.** {sizes.words(grown)} {sizes.huge_words()}"], body)


def _trends(study: StudyData, repeats: Repeats) -> Finding | None:
    found = trends.trends(study, repeats)
    if not found:
        return None

    def body() -> str:
        panels = [svg.panel(name, title, draw, HEIGHT) for name, title, draw in trends.panels(found)]
        return html.figure(panels, trends.caption(study, found), kind="pairs") + html.table(*trends.table(found))

    return Finding("Effects against size", trends.words(found), body, partial(trends.draw, found))
