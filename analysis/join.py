"""Join several studies in one table, as papers print them: a block of rows for each network and data set."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis import tables
from analysis.answer import describe, verdict
from analysis.build import FORMATS, Analysis, analyse, nearby, write
from analysis.records.columns import GROUPS
from analysis.records.effects import COMPARED
from analysis.report.page import document
from analysis.stats.statistics import holm, interval_name
from mldiv.records import RecordError


def join(folders: Sequence[Path], out: Path | None = None, formats: Collection[str] = FORMATS) -> str:
    """Write table.md, .csv, .tex, answer.md and report.html of several studies; return the terminal's text.

    Every study keeps its own baseline; p-values are corrected over all comparisons of all studies. out: the folder to write
    to (default: joined, beside the first); formats: which are written, besides the answer.

    Raises: RecordError for a folder without a study of this schema version, or the same folder twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise RecordError("the same folder is named twice; name each study once")
    out = out or folders[0].resolve().parent / "joined"
    out.mkdir(parents=True, exist_ok=True)
    studies = label([analyse(folder) for folder in folders])
    text, said = markdown(studies), answer(studies)
    texts = {
        "table.md": text,
        "table.csv": frame(studies).to_csv(index=False, float_format="%.10g"),
        "table.tex": latex(studies),
        "report.html": document("Several studies", f"{said}\n{text}"),
        "answer.md": said,
    }
    return f"{text}\n{said}\nIn {nearby(out)}: {', '.join(write(texts, out, formats))}"


def label(found: list[Analysis]) -> dict[str, Analysis]:
    """Name the studies by network and data, and by name, folder or number where those do not tell them apart."""
    names = ["{arch} x {width:g}, {data}".format_map(made.study.header.settings) for made in found]
    for further in ([made.study.header.name for made in found], [made.study.folder.name for made in found]):
        names = [f"{name}, {more}" if names.count(name) > 1 else name for name, more in zip(names, further, strict=True)]
    names = [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]
    return dict(zip(names, found, strict=True))


def _rows(studies: dict[str, Analysis], names: list[str], bold: str) -> list[list[str]]:
    return [[study, *row] for study, made in studies.items() for row in tables.cells(made.table, names, bold)]


def markdown(studies: dict[str, Analysis]) -> str:
    """Write each study's caption, then a table for each group of columns, the best mean of a study's column in bold."""
    parts = ["# Several studies"]
    for name, made in studies.items():
        parts += [f"**{name}**", " ".join(tables.caption(made.study))]
    for group, words in GROUPS.items():
        shown = _columns(studies, group)
        if shown:
            head = ["network, data", "arm", *tables.titles(shown)]
            table = pd.DataFrame(_rows(studies, shown, tables.MARKDOWN_BOLD), columns=head)
            parts += [words, table.to_markdown(index=False, disable_numparse=True)]
    return "\n\n".join(parts) + "\n"


def _columns(studies: dict[str, Analysis], group: str) -> list[str]:
    return list(dict.fromkeys(name for made in studies.values() for name in tables.filled(made.table, group)))


def frame(studies: dict[str, Analysis]) -> pd.DataFrame:
    """Return a row per study and arm."""
    parts = []
    for name, made in studies.items():
        part = tables.frame(made.study, made.table)
        for place, column in enumerate(("arch", "width", "data")):
            part.insert(place, column, made.study.header.settings[column])
        part.insert(0, "study", name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def latex(studies: dict[str, Analysis]) -> str:
    """Write a table environment for each group of columns, the studies below each other."""
    parts = []
    for group, words in GROUPS.items():
        if shown := _columns(studies, group):
            body = _rows(studies, shown, tables.LATEX_BOLD)
            parts.append(tables.environment(["network, data", "arm"], body, shown, words))
    return "\n".join(parts)


def answer(studies: dict[str, Analysis]) -> str:
    """List each study's differences to its baseline, p-values corrected over all of them."""
    lines = ["# Several studies", ""]
    kinds = " or ".join(sorted({interval_name(made.study.header.level) for made in studies.values()}))
    for metric, compared in COMPARED.items():
        effects = {(name, arm): effect for name, made in studies.items() for arm, effect in made.differences[metric].items()}
        adjusted = holm([effect.p for effect in effects.values()])
        lines += [
            f"Difference in test {compared.title}{compared.unit} to each study's baseline, paired by seed, mean [{kinds}]; "
            f"p-values corrected over all {len(effects)} comparisons:",
            "",
        ]
        for ((name, arm), effect), p in zip(effects.items(), adjusted, strict=True):
            header = studies[name].study.header
            word, words = verdict(effect, metric, header.margins[metric]), describe(replace(effect, adjusted=p), metric)
            lines.append(f"- {name}: {arm} less {header.baseline}: **{word}**, {words}")
        if not effects:
            lines.append("- none: no study has pairs of finished trials")
        lines.append("")
    return "\n".join(lines)
