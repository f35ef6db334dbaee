"""Write report.html: the whole study on one page that needs no other file. The answer first, then what it rests on."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.figures import curves, detection, forest, html, reliability, shift, svg
from analysis.figures.palette import Style
from analysis.records.effects import Effects
from analysis.records.load import StudyData
from analysis.records.repeats import ByArm
from analysis.report import account
from analysis.stats.statistics import Difference, interval_name

Styles = Mapping[str, Style]


@dataclass(frozen=True)
class Section:
    """A part of the page. body: HTML or SVG (see `figures.svg`), taken as it is; title and caption: plain text."""

    title: str
    body: str
    caption: str = ""


def render(
    study: StudyData, *, predictions: ByArm, table: str, answer: str, effects: Effects, contrasts: Effects,
    nulls: Mapping[str, float] | None = None, signatures: Sequence[str] = (), extra: Sequence[Section] = (),
) -> str:  # fmt: skip
    """Write the page; the same study gives the same bytes.

    predictions: by arm and seed, of the arm's members; table, answer, signatures: Markdown; effects: by metric and arm, the
    difference to the baseline, contrasts: by metric and name, both in printed units; nulls: by arm, the ECE of a calibrated
    model in percent; extra: sections to stand between detection and failures.
    """
    styles = svg.arm_styles(study)
    predictions = {arm: by_seed for arm in study.arms if (by_seed := predictions.get(arm))}
    lines = curves.read(study)
    sections = [
        Section("Answer", html.markdown(html.without_title(answer))),
        Section("Table", html.markdown(_without_question(study, table))),
        Section("Differences", _differences(study, effects, contrasts, styles)),
        Section("Reliability", _reliability(study, predictions, nulls or {}, styles)),
        Section("Learning curves", _of_lines(curves.learning, study, lines, styles)),
        Section("Diversity over time", _of_lines(curves.diversity, study, lines, styles)),
        Section("Which terms act", _of_lines(curves.gradients, study, lines, styles)),
        Section("Uncertainty as a detector", _detection(study, predictions, styles)),
        *([Section("Under shift", shifted)] if (shifted := shift.panels(study, styles)) else []),
        *extra,
        *([Section(account.IMPORTANCE, shares, account.EXPLAINED)] if (shares := account.importance(study)) else []),
        Section("What failed or is missing", account.failures(study, signatures)),
        Section("Configuration", account.configuration(study)),
        Section("Versions", account.versions(study)),
        Section("Cost", account.cost(study)),
    ]
    return _page(study.header.question, sections, study.header.name, _summary(study))


def document(title: str, text: str) -> str:
    """Write Markdown as a page of the same kind, a section for each heading of the first level.

    A heading like the title is left out.
    """
    parts = re.split(r"^# (.*)\n", text, flags=re.MULTILINE)
    sections = [Section("", html.markdown(parts[0]))] if parts[0].strip() else []
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        sections.append(Section(heading if heading != title else "", html.markdown(body)))
    return _page(title, sections)


def _page(title: str, sections: Sequence[Section], kicker: str = "", summary: str = "") -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    named: dict[str, Section] = {}
    for section in sections:
        name = _id(section.title)
        named[name if name not in named else f"{name}-{len(named)}"] = replace(section, body=Markup(section.body))
    contents = [(name, section.title) for name, section in named.items() if section.title]
    page = environment.get_template("report.html.j2")
    return page.render(title=title, kicker=kicker, summary=summary, sections=named, contents=contents)


def _id(title: str) -> str:
    """Return what links call a section."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def _without_question(study: StudyData, table: str) -> str:
    """Drop from the table's text what stands above it on this page already."""
    return html.without_title(table).removeprefix("\n").removeprefix(f"{study.header.question}\n")


def _summary(study: StudyData) -> str:
    header = study.header
    done, planned = sum(len(study.finished(arm)) for arm in study.arms), len(study.arms) * len(study.seeds)
    return (
        f"{len(study.arms)} arms on {len(study.seeds)} seed{'s' * (len(study.seeds) > 1)} each, {done} of {planned} repeats "
        f"finished. {header.data}. Preset {header.preset}, mldiv {header.environment.get('mldiv')}, commit "
        f"{header.environment.get('commit', 'unknown')}."
    )


def _missing(text: str) -> Markup:
    return Markup('<p class="missing">{}</p>').format(text)


def _differences(study: StudyData, effects: Effects, contrasts: Effects, styles: Styles) -> Markup:
    panels = forest.panels(effects, contrasts, styles, study.header.margins)
    if not panels:
        why = "the study names no baseline" if study.baseline is None else (
            f"no arm has a finished repeat on a seed on which the baseline ({study.baseline}) has one"
        )  # fmt: skip
        return _missing(f"There is nothing to compare: {why}.")
    every = [effect for of_metric in [*effects.values(), *contrasts.values()] for effect in of_metric.values()]
    caption = (
        f"Test scores less those of the baseline ({study.baseline}), paired by seed: mean and "
        f"{interval_name(study.header.level)} {_over(every)}. n: pairs of finished repeats. The band "
        "holds differences too small to matter, stated before training: an interval within "
        "it is equivalent, one beside 0 better or worse; an open marker is undecided."
    )
    if any(contrasts.values()):
        caption += " Contrasts are differences of means of arms (main effects, interactions), not to the baseline alone."
    if any(effect.interval is None for effect in every):
        caption += " A row without a line has a single pair and so no interval."
    return html.figure(panels, caption, kind="threes") + html.details(
        "The numbers", forest.numbers(effects, contrasts, styles, study.header.margins)
    )


def _over(every: Sequence[Difference]) -> str:
    """Say what the intervals cover."""
    images = {effect.images for effect in every if effect.interval}
    if images <= {None}:
        return "over seeds (not over test images)"
    counted = ", ".join(f"{number:,}" for number in sorted(number for number in images if number))
    return f"over seeds and {counted} test images" + (
        " (over seeds alone where predictions are missing)" if None in images else ""
    )


def _reliability(study: StudyData, predictions: ByArm, nulls: Mapping[str, float], styles: Styles) -> Markup:
    if not predictions:
        return _missing("No arm has predictions of a finished repeat that can be read.")
    caption = (
        "Accuracy against confidence on test data in 15 bins of equal width, predictions of all seeds pooled; bins with fewer "
        f"than {reliability.LEAST_PREDICTIONS} predictions left out. Filled circles and solid line: as the networks predict. "
        "Open circles and dotted line: after temperature scaling, its temperature fitted on validation data. Grey: where 95 % "
        "of perfectly calibrated models with these confidences would lie in each bin, on one such test set. Dashed: accuracy = "
        "confidence. Below each: the share of predictions in each bin. ECE: mean ± standard error over n seeds; it is above 0 "
        "even for a calibrated model."
    )
    panels = reliability.panels(study, predictions, nulls, styles)
    without = [arm for arm in study.arms if arm not in predictions]
    caption += f" Without predictions: {', '.join(without)}." if without else ""
    return html.figure(panels, caption, kind="many")


def _of_lines(draw: Callable[..., Markup], study: StudyData, lines: dict[str, list[curves.Curve]], styles: Styles) -> Markup:
    return draw(study, lines, styles) if lines else _missing("No finished repeat has lines per epoch that can be read.")


def _detection(study: StudyData, predictions: ByArm, styles: Styles) -> Markup:
    table = detection.table(study)
    scores = table + Markup('<p class="note">{}</p>').format(detection.explanation(study)) if table else (
        _missing("No finished repeat has a record of how well uncertainty detects.")
    )  # fmt: skip
    return scores + (
        detection.panels(predictions, styles)
        or _missing("No risk-coverage curves: no uncertainties of single images can be read.")
    )
