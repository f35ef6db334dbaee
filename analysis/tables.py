"""Write a study's tables: a row per arm, mean and standard error over seeds, as Markdown, CSV and LaTeX."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import pandas as pd

from analysis.markdown import table as markdown_table
from analysis.records.cautions import bounds
from analysis.records.columns import COLUMNS, GROUPS, Column
from analysis.records.load import StudyData
from analysis.records.repeats import Repeat
from analysis.stats.statistics import Summary, digits_of, fixed, summarize
from mldiv.environment.terminal import plain

#: By arm and column.
Table = dict[str, dict[str, Summary | None]]

#: Formats of the best mean.
MARKDOWN_BOLD, LATEX_BOLD = "**{}**", "\\textbf{{{}}}"


def summaries(arms: Mapping[str, Sequence[Repeat]]) -> Table:
    """Summarise each arm's columns over its finished repeats, in printed units; None where no repeat has a value."""
    return {arm: {name: _summary(column, repeats) for name, column in COLUMNS.items()} for arm, repeats in arms.items()}


def _summary(column: Column, repeats: Sequence[Repeat]) -> Summary | None:
    values = [column.value(repeat) for repeat in repeats]
    return summarize([None if value is None else column.factor * value for value in values])


def caption(study: StudyData) -> list[str]:
    """Say what a reader must know to read the table, sentence by sentence."""
    header, settings = study.header, study.header.settings
    subset = " (cut to a subset)" if header.data_is_subset else ""
    lines = [
        f"{header.question}",
        *([study.rescored] if study.rescored else []),
        f"Data: {header.data}{subset}. Network: {settings['arch']} at width {settings['width']:g}, every arm trained "
        f"for {settings['epochs']} epochs, batch {settings['batch_size']} over {header.world_size} worker(s), unless the "
        f"arm says otherwise; preset {header.preset}.",
        scored(study),
        f"Selection: {_selection(study)}; the choice repeated on seeds {', '.join(map(str, study.seeds))}.",
    ]
    bad = {status: sum(study.count(arm, status) for arm in study.arms) for status in ("failed", "diverged", "stopped")}
    counted = [f"{number} {status}" for status, number in bad.items() if number]
    lines.append(f"Repeats that do not enter: {', '.join(counted)}." if counted else "No repeat failed or diverged.")
    if missing := study.missing():
        lines.append(f"Without a finished trial: {'; '.join(missing)}.")
    lines += bounds(study)
    for record in study.records.values():
        lines += [f"Note on {record.id}: {note}." for note in record.notes]
    lines += [f"Left out: {problem}." for problem in study.problems]
    lines += [study.copy] if study.copy else []
    states = sorted({str(record.environment["code"]) for record in study.records.values() if "code" in record.environment})
    if len(states) > 1:
        lines.append(f"These trials were trained by {len(states)} different states of mldiv's code ({', '.join(states)}).")
    commit = header.environment.get("commit", "unknown")
    lines.append(f"mldiv {header.environment.get('mldiv')}, commit {commit}.")
    return lines


def scored(study: StudyData) -> str:
    """Say whose scores on which data a table holds, and how to read a cell."""
    return (
        f"Scores of {_members(study)} ({study.header.settings['test_samples']} weight samples per peer) on {study.scored}: "
        "mean ± sample standard error over seeds, to as many digits as a column's errors allow; n = 1 has no error. Bold: the "
        "best mean of a column and what equals it to these digits, which is not yet significant."
    )


def _members(study: StudyData) -> str:
    single = [arm for arm in study.arms if study.member(arm) == "peers"]
    every = "both" if study.header.settings.get("peers", 2) == 2 else "all"
    return f"the pair's joint prediction (of {', '.join(single)}: of a network alone, mean of {every})" if single else (
        "the pair's joint prediction"
    )  # fmt: skip


def _selection(study: StudyData) -> str:
    header = study.header
    if not header.has_search:
        return "nothing was searched, every arm has its defaults"
    seeds = len(header.search_seeds)
    each = f", each trained with {seeds} seeds and judged by the mean" if seeds > 1 else ""
    early = f"; {header.early_stopping}" if header.early_stopping else ""
    return f"{header.selection}, from {header.samples} Optuna trials per arm with a search{each} ({_counts(study)}){early}"


def _counts(study: StudyData) -> str:
    ends = pd.Series([record.status for _, record in study.searched] + ["missing"] * study.lost).value_counts()
    if set(ends.index) <= {"finished"}:
        return f"{ends.sum()} in all"
    return ", ".join(f"{ends[status]} {status}" for status in sorted(ends.index))


def usual(table: Table, names: Sequence[str]) -> int:
    """Return the number of seeds that most of the columns' cells are means over; 0 where there is none."""
    counts = Counter(summary.n for row in table.values() for name in names if (summary := row[name]) is not None)
    return counts.most_common(1)[0][0] if counts else 0


def counted(table: Table, names: Sequence[str]) -> str:
    """Say over how many seeds the columns' means are."""
    n = usual(table, names)
    others = any(summary.n != n for row in table.values() for name in names if (summary := row[name]) is not None)
    return f"n = {n}{' where no other number stands in brackets' * others}."


def cells(table: Table, names: Sequence[str], bold: str, said: int | None = None) -> list[list[str]]:
    """Return a row of text per arm: its name, then the columns ``names``; bold: a format for the best mean.

    said: the number of seeds that a cell need not repeat, by default the `usual` one.
    """
    said = usual(table, names) if said is None else said
    columns = [_column(COLUMNS[name], [row[name] for row in table.values()], bold, said) for name in names]
    return [list(row) for row in zip(table, *columns, strict=True)]


def _column(column: Column, summaries: Sequence[Summary | None], bold: str, said: int) -> list[str]:
    """Write a column: digits by its errors; bold is the best mean, and what is as good as it to these digits."""
    known = [summary for summary in summaries if summary is not None]
    digits = digits_of([summary.error for summary in known if summary.error], column.digits)
    means = {float(fixed(summary.mean, digits)) for summary in known}
    best = None if column.better is None or len(means) < 2 else max(means) if column.better == "high" else min(means)

    def cell(summary: Summary | None) -> str:
        if summary is None:
            return "-"
        text = summary.text(digits, bold if float(fixed(summary.mean, digits)) == best else "{}")
        return text if summary.n == said else f"{text} ({summary.n})"

    return [cell(summary) for summary in summaries]


def filled(table: Table, group: str) -> list[str]:
    """Return the group's columns that have a value in some row."""
    names = [name for name, column in COLUMNS.items() if column.group == group]
    return [name for name in names if any(row[name] is not None for row in table.values())]


def markdown(study: StudyData, table: Table, more: Sequence[str] = ()) -> str:
    """Write table.md: the caption, a table for each group of columns, ``more``, then what the searches chose."""
    parts = [f"# {study.header.name}", "\n\n".join(caption(study))]
    for group in GROUPS:
        parts += part(study, table, group)
    return "\n\n".join([*parts, *more, *settings(study)]) + "\n"


def part(study: StudyData, table: Table, group: str) -> list[str]:
    """Write a group of columns as Markdown: what it shows, the table; nothing where no arm has a value in it."""
    names = filled(table, group)
    if not names:
        return []
    head = [study.header.scientific, *titles(names)]
    return [f"{GROUPS[group]} {counted(table, names)}", markdown_table(head, cells(table, names, MARKDOWN_BOLD))]


def settings(study: StudyData) -> list[str]:
    """Tabulate the settings that the searches chose, as Markdown; nothing where they chose none."""
    chosen = study.header.chosen or {}
    if not any(chosen.values()):
        return []
    names = list(dict.fromkeys(name for values in chosen.values() for name in values))
    rows = [[arm, *(_setting(chosen.get(arm, {}).get(name)) for name in names)] for arm in study.arms]
    head = [study.header.scientific, *names]
    searched = study.header.has_search
    said = "Settings chosen by the searches:" if searched else "Settings that a search may choose, as they are here:"
    return [said, markdown_table(head, rows)]


def _setting(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def frame(study: StudyData, table: Table) -> pd.DataFrame:
    """Return a row per arm: mean, standard error and n of every column apart, unrounded; chosen settings; counts."""
    rows = []
    for arm in study.arms:
        row: dict[str, Any] = {"arm": arm}
        for name in COLUMNS:
            mean, error, n = astuple(summary) if (summary := table[arm][name]) else (None, None, 0)
            row |= {f"{name}_mean": mean, f"{name}_se": error, f"{name}_n": n}
        row |= {status: study.count(arm, status) for status in ("finished", "failed", "diverged", "stopped")}
        row |= {f"chosen_{name}": value for name, value in (study.header.chosen or {}).get(arm, {}).items()}
        rows.append(row)
    return pd.DataFrame(rows).map(harmless)


def latex(first: str, table: Table, sentences: Sequence[str]) -> str:
    """Write table.tex: a table environment for each group of columns, for a document with booktabs and graphicx.

    first: title of the arms' column; sentences: of the first table's caption.
    """
    parts: list[str] = []
    for group, words in GROUPS.items():
        if names := filled(table, group):
            text = " ".join([words, counted(table, names), *(sentences if not parts else [])])
            parts.append(environment([first], cells(table, names, LATEX_BOLD), names, text))
    return "\n".join(parts)


def environment(first: list[str], body: list[list[str]], names: list[str], text: str) -> str:
    """Write a LaTeX table: titles ``first`` and those of the columns ``names``, rows ``body``, caption ``text``, all plain."""
    words = len(first)
    rows = [" & ".join([*map(_escape, row[:words]), *map(_signs, row[words:])]) + r" \\" for row in body]
    head = " & ".join(map(_escape, [*first, *titles(names)])) + r" \\"
    return "\n".join([
        r"\begin{table}", rf"\caption{{{_escape(text)}}}", r"\centering\small",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        r"\begin{tabular}{" + "l" * len(first) + "r" * len(names) + "}",
        r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}}", r"\end{table}", "",
    ])  # fmt: skip


def titles(names: Sequence[str]) -> list[str]:
    """Return the columns' titles."""
    return [COLUMNS[name].title for name in names]


#: LaTeX's special characters, and signs that its text fonts lack.
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$", "²": r"$^2$", "<": "$<$", ">": "$>$",
}  # fmt: skip


def _escape(text: str) -> str:
    """Make words plain LaTeX, whatever they hold."""
    return "".join(LATEX.get(character, character) for character in plain(text))


def _signs(text: str) -> str:
    """Make a number plain LaTeX; what is bold stays so."""
    return text.replace("±", LATEX["±"])


def harmless(value: Any) -> Any:
    """Return a cell of a CSV file: words that a spreadsheet would take for a formula begin with an apostrophe."""
    if not isinstance(value, str):
        return value
    return ("'" if value[:1] in tuple("=+-@\t\r") else "") + plain(value)


def means(table: Table, name: str) -> dict[str, float]:
    """Return a column's mean by arm, in printed units, where there is one."""
    return {arm: summary.mean for arm, row in table.items() if (summary := row[name]) is not None}
