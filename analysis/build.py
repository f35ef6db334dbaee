"""Make everything from one study folder in one call: tables, answer, report, figures."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis import tables
from analysis.answer import document
from analysis.compact.copy import load
from analysis.comparison import effects, expected, other_images, worth
from analysis.comparison.effects import COMPARED, Effects, Looks
from analysis.figures import curves, intervals, reliability, svg
from analysis.records.cautions import cautions
from analysis.records.columns import GROUPS
from analysis.records.load import StudyData
from analysis.records.repeats import STRONGER, Repeats, gather, predictions
from analysis.records.signatures import Signature, signatures, words
from analysis.report import page
from analysis.report.sections import Finding, findings
from analysis.rescoring.labels import Labels
from analysis.rescoring.rescore import rescore
from analysis.screen import screen
from analysis.stats.statistics import UNDECIDED
from mldiv.environment.terminal import nearby, plain
from mldiv.records.checked_files import write_atomically
from mldiv.records.contents import scored_by
from mldiv.storage.object_store import is_url

#: What can be written: the tables, the report, the pictures (png: as .png and .pdf).
FORMATS = ("md", "csv", "tex", "html", "png")


@dataclass(frozen=True)
class Analysis:
    """A study with everything that is computed from it."""

    study: StudyData
    repeats: Repeats
    table: tables.Table
    differences: Effects
    contrasts: Effects
    singles: dict[str, Effects]
    elsewhere: Effects
    elsewhere_contrasts: Effects
    findings: list[Finding]
    signatures: list[Signature]

    @property
    def further(self) -> list[str]:
        """What stands beside the answer: the study's own kind of finding, and what speaks against taking it at its word."""
        return [*(said for finding in self.findings for said in finding.answer), *cautions(self.study, self.signatures)]

    def answer(self) -> str:
        """Write answer.md."""
        return document.answer(
            self.study, self.differences, self.contrasts, self.further, self.singles, self.elsewhere, self.elsewhere_contrasts
        )


def analyse(folder: Path, labels: Labels | None = None) -> Analysis:
    """Read a study folder and compute what its tables, figures and answer say, under other labels of the test images if given.

    Raises: RecordError when ``folder`` holds no study of this schema version, and as `rescore`.
    """
    study = load(folder)
    if labels is not None:
        rescore(study, labels)
    repeats, looks = gather(study), _looks(study)
    scaled, elsewhere, elsewhere_contrasts = _over_seeds(study, repeats)
    return Analysis(
        study,
        repeats,
        tables.summaries({arm: list(of_arm.values()) for arm, of_arm in repeats.items()}),
        effects.differences(repeats, study.baseline, study.header.compare, looks=looks) if study.baseline else {},
        effects.contrasts(repeats, study.header.contrasts, looks=looks),
        _of_singles(study) | scaled,
        elsewhere,
        elsewhere_contrasts,
        findings(study, repeats),
        signatures(study),
    )


def undecided(folder: Path) -> list[str]:
    """Name the arms and contrasts that are undecided in NLL by the looks that a study has taken; arms without a pair are none.

    Raises: RecordError as `analyse`.
    """
    study = load(folder)
    repeats, looks, header = gather(study), _looks(study), study.header
    found = [effects.contrasts(repeats, header.contrasts, ["nll"], looks)]
    if study.baseline is not None:
        found.insert(0, effects.differences(repeats, study.baseline, header.compare, ["nll"], looks))
    every = [pair for of in found for pair in of["nll"].items()]
    return [name for name, effect in every if effect.verdict(header.margins["nll"], COMPARED["nll"].more) == UNDECIDED]


def _looks(study: StudyData) -> Looks | None:
    header = study.header
    return Looks(study.looks, header.level, header.margins) if header.looks else None


def _of_singles(study: StudyData) -> dict[str, Effects]:
    """Compare the arms once more, by their single peers: by the mean of all, by each, by the stronger; nothing of one peer."""
    peers = {peer: None for record in study.records.values() for peer in scored_by("peers", record.test)}
    if study.baseline is None or len(peers) < 2:
        return {}
    means = {"nll", "accuracy"}  # of a resampled score once is enough
    found = {
        {"peers": "mean of single peers"}.get(whose, whose.replace("_", " ")): effects.differences(
            gather(study, whose),
            study.baseline,
            study.header.compare,
            [m for m in COMPARED if whose == "peers" or m in means],
            _looks(study),
        )
        for whose in ("peers", *peers, STRONGER)
    }
    return {name: of for name, of in found.items() if of["nll"]}


def _over_seeds(study: StudyData, repeats: Repeats) -> tuple[dict[str, Effects], Effects, Effects]:
    """Compare the arms once more after temperature scaling, and, with contrasts, on corrupted and other images.

    Nothing where looks, each of its own seeds, decide.
    """
    if (baseline := study.baseline) is None or study.header.looks:
        return {}, {}, {}
    scaled = effects.after_scaling(repeats, baseline, study.header.compare)
    elsewhere = effects.of_columns(repeats, baseline, study.header.compare, document.ELSEWHERE)
    contrasts = effects.contrasts_of_columns(repeats, study.header.contrasts, document.ELSEWHERE)
    return {document.SCALED: scaled} if scaled["nll"] else {}, elsewhere, contrasts


def build(
    folder: Path, out: Path | None = None, formats: Collection[str] = FORMATS, place: str = "", labels: Labels | None = None
) -> str:  # fmt: skip
    """Write a study's tables, answer, report and figures into ``out`` (default: the folder); return the terminal's text.

    The files: table.md, .csv and .tex, answer.md, report.html, reliability.png and .pdf, learning.png and .pdf (curves on
    validation data), differences.png and .pdf where arms are compared, surface.png and .pdf of a response surface, trends.png
    and .pdf of effects against a size. formats: which are written, besides the answer; place: how ``out`` is called where it
    is a copy; labels: of the test images, in place of the study's own. The text: answer, a few scores, where the files are.

    Raises: RecordError as `analyse`.
    """
    return deliver(analyse(folder, labels), out or folder, formats, place)


def deliver(made: Analysis, out: Path, formats: Collection[str] = FORMATS, place: str = "") -> str:
    """Do what `build` does, with an analysis that is there."""
    out.mkdir(parents=True, exist_ok=True)
    more = {
        "calibration": expected.markdown(made.repeats), "worth": worth.markdown(made.study),
        "uncertainty": other_images.markdown(made.study),
    }  # fmt: skip
    table = tables.markdown(made.study, made.table, more=[part for parts in more.values() for part in parts])
    texts = {
        "table.md": table,
        "table.csv": tables.frame(made.study, made.table).to_csv(index=False, float_format="%.10g"),
        "table.tex": tables.latex(made.study.header.scientific, made.table, tables.caption(made.study)),
        "answer.md": made.answer(),
    }
    if "html" in formats:
        texts["report.html"] = _report(made, more)
    files = write(texts, out, formats)
    if "png" in formats:
        files += [path.name for path in _pictures(made, out)]
    where = place if is_url(place) else nearby(out)
    return screen(made.study, made.table, made.differences, where, files)


def write(texts: Mapping[str, str], out: Path, formats: Collection[str]) -> list[str]:
    """Write the answer, and of the other texts those whose names end in one of ``formats``; return their names."""
    kept = [name for name in texts if name == "answer.md" or name.rpartition(".")[2] in formats]
    for name in kept:
        write_atomically(out / name, plain(texts[name]))  # names come from files: no code that a terminal obeys, or a page
    return kept


def _report(made: Analysis, more: Mapping[str, list[str]]) -> str:
    """Write the page; more: by group of columns, further tables as Markdown."""
    study, differences = made.study, made.differences
    parts = {group: [*tables.part(study, made.table, group), *more.get(group, [])] for group in GROUPS}
    if scores := parts["scores"]:
        scores[0] = f"{tables.scored(study)} {scores[0].removeprefix(GROUPS['scores']).lstrip()}"
    numbers = document.numbers(study, differences, made.contrasts, whole=False)
    numbers += [
        *document.by_whom(study, differences, made.singles),
        *document.beyond(study, made.elsewhere, made.elsewhere_contrasts),
    ]
    answer = "\n\n".join(filter(None, (study.rescored, document.found(study, differences))))
    return page.render(
        study, answer=answer, tables=parts, effects=differences, contrasts=made.contrasts,
        notes=document.notes(study, differences, made.contrasts, made.further, made.singles, made.elsewhere),
        numbers=numbers, signatures=words(made.signatures),
        predictions=predictions(made.repeats), nulls=tables.means(made.table, "null_ece"),
        extra=[finding.section for finding in made.findings],
    )  # fmt: skip


def _pictures(made: Analysis, out: Path) -> list[Path]:
    study = made.study
    paths = reliability.draw(study, predictions(made.repeats), tables.means(made.table, "null_ece"), out)
    styles, margins = svg.arm_styles(study), study.header.margins
    paths += curves.draw(study, curves.read(study), styles, out)
    paths += intervals.draw(made.differences, made.contrasts, styles, margins, study.baseline or "", out)
    return paths + [path for finding in made.findings if finding.draw for path in finding.draw(out)]
