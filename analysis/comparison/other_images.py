"""Tabulate how well each uncertainty tells test images from each set of other images, near and far."""

from collections.abc import Mapping

from analysis.markdown import table
from analysis.records.columns import mean_over_members
from analysis.records.load import StudyData
from analysis.stats.statistics import Summary, summarize

#: By name in a record: what the table calls it.
MEASURES = {
    "entropy": "entropy", "mutual_information": "mutual information", "energy": "energy", "largest_logit": "largest logit",
    "confidence": "confidence",
}  # fmt: skip
SCORES = {"auroc": "AUROC", "aupr": "AUPR", "fpr95": "FPR at 95 %"}

WORDS = (
    "Images of another kind, by set and measure: area under the ROC curve, average precision (both higher is better; the other "
    "images are the positives, and chance in the second is their share) and the share of test images that are taken for others "
    "where 95 % of these are found (lower is better). Mean ± standard error over seeds (n)."
)


def sets(study: StudyData) -> list[str]:
    """Name the sets that any finished repeat was asked for, in their order."""
    records = [record for arm in study.arms for record in study.finished(arm).values()]
    keys = [key for record in records for scores in record.other.values() for key in scores]
    return list(dict.fromkeys(key.rpartition("/")[0] for key in keys))


def summaries(study: StudyData, arm: str, name: str) -> Mapping[tuple[str, str], Summary | None]:
    """Summarise an arm's scores on a set, by measure and score; None where a repeat has none."""
    found = study.finished(arm).values()
    return {
        (measure, score): summarize(
            [mean_over_members(record.other, study.member(arm), f"{name}/{score}_{measure}") for record in found]
        )
        for measure in MEASURES
        for score in SCORES
    }


def markdown(study: StudyData) -> list[str]:
    """Write the words and a table with a row per set, arm and measure; nothing where no other images were predicted."""
    rows = []
    for name in sets(study):
        for arm in study.arms:
            found = summaries(study, arm, name)
            for measure, title in MEASURES.items():
                cells = [found[measure, score] for score in SCORES]
                if any(cell is not None for cell in cells):
                    rows.append([name, arm, title, *("-" if cell is None else f"{cell.text(3)} ({cell.n})" for cell in cells)])
    if not rows:
        return []
    head = ["other images", "arm", "measure", *SCORES.values()]
    return [WORDS, table(head, rows)]
