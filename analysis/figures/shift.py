"""Draw scores on corrupted test images against severity: means over seeds with their standard error."""

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from analysis.figures import html, svg
from analysis.figures.curves import BAND_ARMS
from analysis.figures.palette import Style
from analysis.records.columns import SEVERITIES, mean_over_members
from analysis.records.load import StudyData
from analysis.stats.statistics import Summary, summarize
from mldiv.records.contents import PAIR, TrialRecord

#: By score in a record: the panel's title and the factor for print.
PANELS = {"nll": ("NLL (nats)", 1.0), "accuracy": ("Accuracy (%)", 100.0), "ece": ("ECE (%)", 100.0)}

#: One severity's summaries after the other, from none (the clean test images) on.
Line = list[Summary]


def lines(study: StudyData, name: str) -> dict[str, Line]:
    """Summarise a score at severities 0 to 5 by arm; arms without corrupted images are left out."""
    found: dict[str, Line] = {}
    for arm in study.arms:
        records = [record for record in study.finished(arm).values() if record.shift]
        rows = [summarize([_at(record, study.member(arm), name, level) for record in records]) for level in (0, *SEVERITIES)]
        known = [row for row in rows if row is not None]
        if len(known) == len(rows):
            found[arm] = known
    return found


def _at(record: TrialRecord, member: str, name: str, severity: int) -> float | None:
    if severity == 0:
        return mean_over_members(record.test, member, name)
    return mean_over_members(record.shift, member, f"{name}_{severity}")


def panels(study: StudyData, styles: Mapping[str, Style]) -> Markup:
    """Draw a panel for each score; empty where no arm has corrupted images."""
    found = {name: lines(study, name) for name in PANELS}
    if not (arms := list(found["nll"])):
        return Markup("")
    records = [record for arm in arms for record in study.finished(arm).values()]
    images = sorted({int(number) for record in records if (number := record.shift.get(PAIR, {}).get("images")) is not None})
    count = " or ".join(f"{number:,}" for number in images)
    band = " with one standard error either way as a band" if len(arms) <= BAND_ARMS else ""
    caption = (
        f"Scores on test images under 15 kinds of corruption at five severities, {count} images of each kind, the same at all "
        f"severities and in all arms; at 0 the whole clean test set. Mean over seeds{band}: over seeds, not over images. Glass "
        "blur, frost and elastic transform do not harm more at every higher severity, as in the published images."
    )
    drawn = [_panel(name, by_arm, styles) for name, by_arm in found.items() if by_arm]
    return html.figure(drawn, caption, html.legend({arm: styles[arm] for arm in arms}), kind="threes")


def _panel(name: str, by_arm: Mapping[str, Line], styles: Mapping[str, Style]) -> Markup:
    title, factor = PANELS[name]

    def draw(axes: Axes) -> None:
        places = np.arange(len(SEVERITIES) + 1)
        for arm, line in by_arm.items():
            style, mean = styles[arm], factor * np.array([row.mean for row in line])
            axes.plot(places, mean, color=style.color, linestyle=style.linestyle, marker="o", markersize=2.5)
            if len(by_arm) <= BAND_ARMS and all(row.error is not None for row in line):
                error = factor * np.array([row.error for row in line])
                axes.fill_between(places, mean - error, mean + error, color=style.color, alpha=0.14, linewidth=0)
        axes.set(xlabel="severity of the corruption", xticks=places)
        axes.set_title(title)

    return svg.panel(f"shift-{name}", f"{title} against severity, {len(by_arm)} arms", draw)
