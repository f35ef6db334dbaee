"""What a terminal shows of a study at its end, on one screen: the answer, a table of a few columns, where the rest lies."""

import textwrap
from collections.abc import Sequence

from tabulate import tabulate

from analysis import tables
from analysis.answer import document
from analysis.comparison.effects import Effects, verdict
from analysis.records.load import StudyData
from mldiv.environment.terminal import plain

#: Columns and lines of the smallest terminal; the lines that the study and the prompt still take below.
WIDTH, LINES, BELOW = 79, 24, 3
#: The scores that are shown, beside the verdict.
SCORES = ("accuracy", "nll", "ece")
#: Fewest arms that are shown, however long the answer is.
LEAST_ROWS = 3
#: Fewest signs of an arm's name.
LEAST_NAME = 12


def screen(study: StudyData, table: tables.Table, effects: Effects, where: str, files: Sequence[str]) -> str:
    """Write the text: at most LINES lines of WIDTH columns, unless question and answer alone take that much.

    effects: differences to the baseline; where: the place of the ``files``. Of more arms than there is room for, the baseline
    and those of the lowest NLL are shown.
    """
    sentence = document.found(study, effects).split("\n\n")[0].replace("**", "")
    above = [*_wrapped(study.header.question), "", *_wrapped(sentence), *_gaps(study), ""]
    below = ["", *_wrapped(_files(where, files))]
    room = LINES - BELOW - len(above) - len(below) - len(_head(study, table))
    kept = _kept(study, table, max(LEAST_ROWS, room - 2))
    return "\n".join([*above, *_head(study, table), *_rows(study, table, effects, kept), *below])


def _gaps(study: StudyData) -> list[str]:
    """Say what is missing, which the tables name one by one."""
    gaps = [*study.missing(), *(f"{problem}: left out" for problem in study.problems)]
    more = f" (and {len(gaps) - 1} more: table.md)" if len(gaps) > 1 else ""
    return _wrapped(f"Incomplete: {gaps[0]}{more}.") if gaps else []


def _head(study: StudyData, table: tables.Table) -> list[str]:
    n = tables.usual(table, SCORES)
    error = "mean ± standard error over seeds, " if n > 1 else ""
    return _wrapped(f"Scores on {study.scored}, {error}{tables.counted(table, SCORES)}")


def _kept(study: StudyData, table: tables.Table, room: int) -> list[str]:
    """Return the arms that are shown, in their order."""
    if len(table) <= room:
        return list(table)
    score = {arm: row["nll"].mean if row["nll"] is not None else float("inf") for arm, row in table.items()}
    first = sorted(table, key=lambda arm: (arm != study.baseline, score[arm]))[: room - 1]
    return [arm for arm in table if arm in first]


def _rows(study: StudyData, table: tables.Table, effects: Effects, kept: Sequence[str]) -> list[str]:
    """Return the table's lines; the last counts the arms that are left out."""
    margin, nll = study.header.margins["nll"], effects.get("nll", {})
    said = {arm: verdict(effect, "nll", margin) for arm, effect in nll.items()} | {study.baseline: "(baseline)"}
    cells = [[*row, said.get(row[0], "-")] for row in tables.cells(table, SCORES, "{}") if row[0] in kept]
    titles = [study.header.scientific, *tables.titles(SCORES), "by NLL"]
    others = sum(2 + max(len(row[column]) for row in [titles, *cells]) for column in range(1, len(titles)))
    rows = [[_short(plain(row[0]), max(LEAST_NAME, WIDTH - others)), *row[1:]] for row in cells]
    lines = tabulate(rows, titles, "simple", disable_numparse=True).splitlines()
    left_out = len(table) - len(kept)
    return [line.rstrip() for line in lines] + ([f"... and {left_out} more in table.md"] if left_out else [])


def _short(name: str, width: int) -> str:
    """Cut a name's middle out where it is too long: arms that begin alike often differ at their end."""
    return name if len(name) <= width else f"{name[: (width - 1) // 2]}…{name[-(width // 2) :]}"


def _files(where: str, files: Sequence[str]) -> str:
    report = [name for name in files if name.endswith(".html")]
    others = ", ".join(name for name in files if name not in report)
    return f"In {where}: {report[0]}, which has all of it; {others}" if report else f"In {where}: {others}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(plain(text), WIDTH, break_long_words=False, break_on_hyphens=False)
