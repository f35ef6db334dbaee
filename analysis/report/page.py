"""Write report.html: the whole study on one page that needs no other file. The answer first, then what it rests on."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.comparison.effects import Effects
from analysis.figures import curves, detection, forest, html, reliability, shift, svg
from analysis.figures.palette import COLORS, DARK, Style
from analysis.records.load import StudyData
from analysis.records.repeats import ByArm
from analysis.report import account, provenance
from analysis.stats.statistics import Difference, interval_name

#: Groups of columns that stand beside the figures of the same thing; a plug-in's own stand by themselves.
SHOWN = frozenset({"scores", "calibration", "diversity", "worth", "posterior", "uncertainty", "shift", "families", "cost"})

Styles = Mapping[str, Style]

SCALED = "Open circles and dotted line: after temperature scaling, its temperature fitted on validation data. "


@dataclass(frozen=True)
class Section:
    """A part of the page. body: HTML or SVG (see `figures.svg`), taken as it is; title and caption: plain text."""

    title: str
    body: str
    caption: str = ""


def render(
    study: StudyData, *, predictions: ByArm, answer: str, notes: Sequence[str] = (), numbers: Sequence[str] = (),
    tables: Mapping[str, Sequence[str]], effects: Effects, contrasts: Effects, nulls: Mapping[str, float] | None = None,
    signatures: Sequence[str] = (), extra: Sequence[Section] = (),
) -> str:  # fmt: skip
    """Write the page; the same study gives the same bytes.

    predictions: by arm and seed, of the arm's members; answer, notes, numbers, signatures: Markdown, what was found, what else
    bears on it, tables of all differences, known ways to fail; tables: by group of columns, Markdown; effects: by metric and
    arm, the difference to the baseline, contrasts: by metric and name, both in printed units; nulls: by arm, the ECE of a
    calibrated model in percent; extra: sections to stand between detection and failures.
    """
    styles = svg.arm_styles(study)
    predictions = {arm: by_seed for arm in study.arms if (by_seed := predictions.get(arm))}
    lines = curves.read(study)
    differences = forest.panels(effects, contrasts, styles, study.header.margins)
    folded = partial(_folded, tables)
    sections = [
        Section("Answer", _first(study, answer, differences, effects, contrasts)),
        *([Section("What else the records say", html.items(map(html.line, notes)))] if notes else []),
        *([Section("Other scores", _others(differences, numbers))] if differences else []),
        Section("Scores", _open(tables, "scores")),
        Section("Calibration", _reliability(study, predictions, nulls or {}, styles) + folded("calibration")),
        Section("Learning curves", _of_lines(curves.learning, study, lines, styles)),
        Section("Diversity over time", _of_lines(curves.diversity, study, lines, styles) + folded("diversity", "worth")),
        Section("Which terms act", _of_lines(curves.gradients, study, lines, styles) + folded("posterior")),
        Section("Uncertainty as a detector", _detection(predictions, styles) + folded("uncertainty")),
        *([Section("Under shift", shifted + folded("shift", "families"))] if (shifted := shift.panels(study, styles)) else []),
        *([Section("Further tables", further)] if (further := folded(*(name for name in tables if name not in SHOWN))) else []),
        *extra,
        *([Section(account.IMPORTANCE, shares, account.EXPLAINED)] if (shares := account.importance(study)) else []),
        Section("What failed or is missing", account.failures(study, signatures)),
        Section("Configuration", account.configuration(study)),
        Section("Versions", html.details("All versions", html.table(["", "value"], provenance.environments(study)))),
        Section("Cost", account.cost(study) + folded("cost")),
    ]
    return _page(study.header.question, sections, study.header.name, _summary(study))


def _open(tables: Mapping[str, Sequence[str]], group: str) -> Markup:
    return Markup("").join(map(html.markdown, tables.get(group, [])))


def _folded(tables: Mapping[str, Sequence[str]], *groups: str) -> Markup:
    """Fold the tables of these groups away, each under the name that begins what is said of it."""
    found = [(tables[group][0].partition(":")[0], _open(tables, group)) for group in groups if tables.get(group)]
    return Markup("").join(html.details(f"Table: {name[0].lower()}{name[1:]}", body) for name, body in found)


def _first(
    study: StudyData, answer: str, differences: Mapping[str, Markup], effects: Effects, contrasts: Effects
) -> Markup:  # fmt: skip
    """Show the answer's sentence, each arm's verdict in NLL and where its interval lies, then how to read them."""
    sentence, _, rest = answer.partition("\n\n")
    if not differences:
        why = "the study names no baseline" if study.baseline is None else (
            "there is no other arm" if not study.header.compare else
            f"no arm has a finished repeat on a seed on which the baseline ({study.baseline}) has one"
        )  # fmt: skip
        return html.markdown(answer) + _missing(f"There is nothing to compare: {why}.")
    first = next(iter(differences))
    every = [*effects.get(first, {}).values(), *contrasts.get(first, {}).values()]
    n = sorted({effect.n for effect in every})
    caption = (
        f"Test scores less those of the baseline ({study.baseline}), paired by seed: mean and {interval_name(every[0].level)} "
        f"{_over(every)}, n = {max(n)} seeds{' unless a row says otherwise' * (len(n) > 1)}. Grey: too small to matter. Open "
        "markers are undecided."
    )
    if any(contrasts.values()):
        caption += " Contrasts are differences of means of arms (main effects, interactions), not to the baseline alone."
    if any(effect.interval is None for effect in every):
        caption += " A row without a line has a single pair and so no interval."
    note = Markup('<p class="note">{}</p>').format(caption)
    return html.markdown(sentence) + differences[first] + note + html.markdown(rest)


def _others(differences: Mapping[str, Markup], numbers: Sequence[str]) -> Markup:
    """Show the differences in the other metrics, and fold all numbers away."""
    shown = Markup("").join(list(differences.values())[1:])
    return shown + html.details("p-values, chances, single peers", Markup("").join(map(html.markdown, numbers)))


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
    return page.render(title=title, kicker=kicker, summary=summary, sections=named, contents=contents, colors=COLORS,
                       dark=DARK)  # fmt: skip


def _id(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def _summary(study: StudyData) -> str:
    header = study.header
    done, planned = sum(len(study.finished(arm)) for arm in study.arms), len(study.arms) * len(study.seeds)
    return (
        f"{len(study.arms)} arms on {len(study.seeds)} seed{'s' * (len(study.seeds) > 1)} each, {done} of {planned} repeats "
        f"finished. {header.data}{' (cut to a subset)' * header.data_is_subset}. Preset {header.preset}."
    )


def _missing(text: str) -> Markup:
    return Markup('<p class="missing">{}</p>').format(text)


def _over(every: Sequence[Difference]) -> str:
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
    seeds = sorted({len(by_seed) for by_seed in predictions.values()})
    images = len(next(iter(next(iter(predictions.values())).values()))[0].label)
    caption = (
        f"Accuracy against confidence on {images:,} test images in 15 bins of equal width, predictions of all seeds (n = "
        f"{' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))}) pooled; bins with fewer than "
        f"{reliability.LEAST_PREDICTIONS} predictions left out. Filled circles and solid line: as the networks predict. "
        f"{'' if study.rescored else SCALED}Grey: where 95 % of perfectly calibrated models with these confidences would lie "
        "in each bin, on one such test set. Dashed: accuracy = confidence. Below each: how many predictions lie in each bin. "
        "ECE: mean ± standard error over seeds; it is above 0 even for a calibrated model."
    )
    panels = reliability.panels(study, predictions, nulls, styles)
    without = [arm for arm in study.arms if arm not in predictions]
    caption += f" Without predictions: {', '.join(without)}." if without else ""
    return html.figure(panels, caption, kind="many")


def _of_lines(draw: Callable[..., Markup], study: StudyData, lines: dict[str, list[curves.Curve]], styles: Styles) -> Markup:
    return draw(study, lines, styles) if lines else _missing("No finished repeat has lines per epoch that can be read.")


def _detection(predictions: ByArm, styles: Styles) -> Markup:
    return detection.panels(predictions, styles) or _missing(
        "No risk-coverage curves: no uncertainties of single images can be read."
    )
