"""Write a report's last part as HTML: which settings mattered, what failed, how everything was set, versions, cost."""

from collections.abc import Sequence

from markupsafe import Markup

from analysis.figures import html
from analysis.records.load import StudyData
from analysis.report import provenance

IMPORTANCE = "Which searched settings mattered"
EXPLAINED = (
    "Share of the variation of the search's objective (validation data) that each searched setting explains within the range "
    "searched, by arm. From few trials such shares are rough."
)


def importance(study: StudyData) -> Markup | None:
    """Tabulate settings' shares from the searches, by arm and setting; None when there are none."""
    by_arm = {arm: shares for arm in study.arms if (shares := (study.header.importance or {}).get(arm))}
    if not by_arm:
        return None
    names = list(dict.fromkeys(name for shares in by_arm.values() for name in shares))
    rows = [[arm, *(_bar(shares.get(name)) for name in names)] for arm, shares in by_arm.items()]
    return html.table(["", *names], rows)


def _bar(share: float | None) -> Markup | None:
    if share is None:
        return None
    percent = max(0.0, min(100.0, 100 * share))
    return Markup('<span class="share" style="--share:{}%">{} %</span>').format(f"{percent:.1f}", f"{100 * share:.0f}")


def failures(study: StudyData, signatures: Sequence[str]) -> Markup:
    """List how trials ended and why, what is missing, what cannot be read, what was noted; signatures: Markdown."""
    titles, rows = provenance.counts(study)
    if titles == ["finished"]:
        parts = [html.paragraph(f"All {sum(row[1] for row in rows):,} trials finished.")]
    else:
        parts = [html.paragraph("How trials ended. Only finished repeats enter a number on this page.")]
        parts.append(html.table(["", *titles], rows))
    if reasons := provenance.reasons(study):
        parts.append(Markup("<h3>Reasons</h3>") + html.table(["status", "reason", "trials", "which"], reasons))
    if missing := study.missing():
        parts.append(Markup("<h3>Repeats without a finished trial</h3>") + html.items(missing))
    if study.problems:
        parts.append(Markup("<h3>Records that cannot be used</h3>") + html.items(study.problems))
    if notes := provenance.notes(study):
        parts.append(Markup("<h3>Notes of trials</h3>") + html.table(["note", "trials", "which"], notes))
    if signatures:
        parts.append(html.details("Known ways to fail, with their numbers", Markup("").join(map(html.markdown, signatures))))
    return Markup("").join(parts)


def configuration(study: StudyData) -> Markup:
    """Tabulate the design, what differs between the arms, and every setting with its role."""
    names, rows = provenance.by_arm(study)
    parts = [html.table(["", "value"], provenance.design(study))]
    if names:
        note = "What the arms differ in by design, and what each arm's search tuned (*: chosen by it):"
        parts += [html.paragraph(note), html.table(["", *names], rows)]
    full = html.table(["setting", "value", "role"], provenance.settings(study))
    parts.append(html.details("All settings", full))
    return Markup("").join(parts)


def cost(study: StudyData) -> Markup:
    """Tabulate epochs and hours of searches and repeats."""
    head = ["", "trials", "epochs trained", "epochs shared", "epochs of pretraining", "device hours"]
    note = (
        "Epochs trained by the trials themselves, taken from other trials' stored first stages, and of pretraining. Device "
        "hours: seconds of all trials from start to end, times workers per trial; a trial in both counts once."
    )
    return html.table(head, provenance.cost(study)) + Markup('<p class="note">{}</p>').format(note)
