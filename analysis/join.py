"""Several studies in one table, as papers print them: a block of rows for each network and data set."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from analysis import tables
from analysis.answer import interval, signed
from analysis.build import FORMATS, Analysis, analyse
from analysis.records.columns import GROUPS
from analysis.records.effects import COMPARED
from analysis.report.page import document
from analysis.stats.statistics import LEVEL, holm
from mldiv.records import RecordError


def join(folders: Sequence[Path], out: Path | None = None, formats: Collection[str] = FORMATS) -> str:
    """Write table.md, .csv, .tex, answer.md and report.html of several studies into ``out`` (default: joined).

    Every study keeps its own baseline; p-values are corrected over all comparisons of all studies. Returns the text for the
    terminal.

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
    }
    kept = {name: one for name, one in texts.items() if name.rpartition(".")[2] in formats} | {"answer.md": said}
    for name, one in kept.items():
        (out / name).write_text(one)
    where = os.path.relpath(out) if not os.path.relpath(out).startswith("..") else str(out)
    return f"{text}\n{said}\nIn {where}: {', '.join(kept)}"


def label(found: list[Analysis]) -> dict[str, Analysis]:
    """The studies by network and data, with the study's name and folder where those do not tell them apart."""
    names = []
    for one in found:
        settings = one.study.header["settings"]
        names.append(f"{settings['arch']} x {settings['width']:g}, {settings['data']}")
    for longer in (lambda one: one.study.header["name"], lambda one: one.study.folder.name):
        names = [f"{name}, {longer(one)}" if names.count(name) > 1 else name for name, one in zip(names, found, strict=True)]
    return {f"{name} ({place})" if names.count(name) > 1 else name: one
            for place, (name, one) in enumerate(zip(names, found, strict=True), 1)}  # fmt: skip


def _rows(studies: dict[str, Analysis], names: list[str], bold: str, plus_minus: str) -> list[list[str]]:
    return [
        [name, *row]
        for name, one in studies.items()
        for row in tables.cells(one.table, names, bold, plus_minus)
    ]  # fmt: skip


def markdown(studies: dict[str, Analysis]) -> str:
    """Each study's caption, then a table for each group of columns. Bold: the best mean of a study's column."""
    parts = ["# Several studies"]
    for name, one in studies.items():
        parts += [f"**{name}**", " ".join(tables.caption(one.study))]
    for group, words in GROUPS.items():
        shown = _columns(studies, group)
        if shown:
            head = ["network, data", "arm", *tables.titles(shown)]
            table = pd.DataFrame(_rows(studies, shown, "**{}**", "±"), columns=head)
            parts += [words, table.to_markdown(index=False, disable_numparse=True)]
    return "\n\n".join(parts) + "\n"


def _columns(studies: dict[str, Analysis], group: str) -> list[str]:
    return list(dict.fromkeys(name for one in studies.values() for name in tables.filled(one.table, group)))


def frame(studies: dict[str, Analysis]) -> pd.DataFrame:
    """A row per study and arm."""
    parts = []
    for name, one in studies.items():
        settings = one.study.header["settings"]
        part = tables.frame(one.study, one.table)
        for place, (column, value) in enumerate(
            {"study": name, "arch": settings["arch"], "width": settings["width"], "data": settings["data"]}.items()
        ):
            part.insert(place, column, value)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def latex(studies: dict[str, Analysis]) -> str:
    """A table environment for each group of columns, the studies below each other."""
    parts = []
    for group, words in GROUPS.items():
        if shown := _columns(studies, group):
            body = _rows(studies, shown, "\\textbf{{{}}}", "±")
            parts.append(tables.environment(["network, data", "arm"], body, shown, words))
    return "\n".join(parts)


def answer(studies: dict[str, Analysis]) -> str:
    """Each study's differences to its baseline; p-values corrected over all of them."""
    lines = ["# Several studies", ""]
    for metric, compared in COMPARED.items():
        found = [(name, arm, one) for name, study in studies.items() for arm, one in study.differences[metric].items()]
        adjusted = holm([one.p for *_, one in found])
        lines += [
            f"Difference in test {compared.title}{compared.unit} to each study's baseline, paired by seed, mean [95 % "
            f"interval]; p-values corrected over all {len(found)} comparisons:",
            "",
        ]
        for (name, arm, one), p in zip(found, adjusted, strict=True):
            better = (one.mean > 0) == compared.more
            mark = f" **({'better' if better else 'worse'})**" if p <= LEVEL else ""
            lines.append(
                f"- {name}: {arm} less {studies[name].study.baseline}: {signed(one.mean, compared.digits)}"
                f"{interval(one, compared.digits)}, sign-flip p = {one.p:.2g}, Holm-adjusted {p:.2g}, n = {one.n}{mark}"
            )
        if not found:
            lines.append("- none: no study has pairs of finished trials")
        lines.append("")
    return "\n".join(lines)
