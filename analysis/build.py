"""Everything that is made from one study folder, in one call."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from analysis import answer, tables
from analysis.figures import reliability
from analysis.records import effects, expected
from analysis.records.effects import Effects
from analysis.records.load import StudyData, load
from analysis.records.repeats import Repeats, gather, predictions
from analysis.records.signatures import signatures, words
from analysis.report import page
from analysis.report.sections import Finding, findings
from mldiv.storage.object_store import is_url

#: What can be written: the tables, the report, the reliability diagrams and response surfaces (png: as .png and .pdf).
FORMATS = ("md", "csv", "tex", "html", "png")


@dataclass(frozen=True)
class Analysis:
    """A study with everything computed from it."""

    study: StudyData
    repeats: Repeats
    table: tables.Table
    differences: Effects
    contrasts: Effects
    findings: list[Finding]

    def answer(self, numbers: bool = True) -> str:
        """answer.md, or without the lists of numbers, for a page that draws them."""
        sentences = [one.answer for one in self.findings if one.answer]
        return answer.answer(self.study, self.differences, self.contrasts, sentences, numbers)


def analyse(folder: Path) -> Analysis:
    """Read a study folder and compute what its tables, figures and answer say.

    Raises: RecordError when ``folder`` holds no study of this schema version.
    """
    study = load(folder)
    repeats = gather(study)
    header = study.header
    return Analysis(
        study,
        repeats,
        tables.summaries({arm: list(of_arm.values()) for arm, of_arm in repeats.items()}),
        effects.differences(repeats, study.baseline, header.get("compare", study.arms)) if study.baseline else {},
        effects.contrasts(repeats, header.get("contrasts", {})),
        findings(study),
    )


def build(folder: Path, out: Path | None = None, formats: Collection[str] = FORMATS, place: str = "") -> str:
    """Write table.md, .csv and .tex, report.html, reliability.png and .pdf, answer.md, and surface.png and .pdf where
    the study has a response surface, into ``out`` (default: the folder).

    formats: which of them are written, besides the answer; place: how ``out`` is called where it is a copy. Returns the text
    for the terminal: scores, answer, where the files are.

    Raises: RecordError when ``folder`` holds no study of this schema version.
    """
    out = out or folder
    out.mkdir(parents=True, exist_ok=True)
    made = analyse(folder)
    study, table, said = made.study, made.table, made.answer()
    shown = predictions(made.repeats)
    texts = {
        "table.md": tables.markdown(study, table, more=expected.markdown(made.repeats)),
        "table.csv": tables.frame(study, table).to_csv(index=False, float_format="%.10g"),
        "table.tex": tables.latex(study.header["scientific"], table, tables.caption(study)),
    }
    kept = {name: text for name, text in texts.items() if name.rpartition(".")[2] in formats} | {"answer.md": said}
    nulls = tables.means(table, "null_ece")
    if "html" in formats:
        kept["report.html"] = page.render(
            study, table=texts["table.md"], answer=made.answer(numbers=False), effects=made.differences,
            contrasts=made.contrasts, signatures=words(signatures(study)), predictions=shown, nulls=nulls,
            extra=[one.section for one in made.findings],
        )  # fmt: skip
    pictures = []
    if "png" in formats:
        pictures = reliability.draw(study, shown, nulls, out)
        pictures += [path for one in made.findings if one.draw for path in one.draw(out)]
    for name, text in kept.items():
        (out / name).write_text(text)
    files = ", ".join([*kept, *(path.name for path in pictures)])
    near = os.path.relpath(out)
    where = place if is_url(place) else near if not near.startswith("..") else str(out)
    return f"{tables.markdown(study, table, ['scores'])}\n{said}\nIn {where}: {files}"
