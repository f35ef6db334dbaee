"""The ablation table: one row per arm, mean and standard error over seeds, as Markdown, CSV and LaTeX."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.calibration import null_ece
from analysis.load import StudyData
from analysis.statistics import Summary, summarize
from mldiv.records import TrialRecord

Value = Callable[[TrialRecord, dict[str, Any] | None], float | None]


@dataclass(frozen=True)
class Column:
    """title: in the table; value: from a trial's record and last metrics line, None if it has none; better: "high" or
    "low" marks the best mean; factor and digits: how it is printed."""

    title: str
    value: Value
    better: str | None = None
    factor: float = 1.0
    digits: int = 2


def _test(member: str, metric: str) -> Value:
    return lambda record, line: record.test.get(member, {}).get(metric)


def _peers_accuracy(record: TrialRecord, line: dict[str, Any] | None) -> float | None:
    values = [scores["accuracy"] for peer in ("peer_1", "peer_2") if (scores := record.test.get(peer))]
    return sum(values) / 2 if len(values) == 2 else None


def _diversity(name: str) -> Value:
    return lambda record, line: line["diversity"].get(name) if line else None


#: Columns of the table in their order. Scores are of the pair on test data unless the title says otherwise.
COLUMNS: dict[str, Column] = {
    "accuracy": Column("Accuracy %", _test("pair", "accuracy"), "high", 100),
    "peers": Column("Peers' accuracy %", _peers_accuracy, None, 100),
    "nll": Column("NLL", _test("pair", "nll"), "low", 1, 4),
    "ece": Column("ECE %", _test("pair", "ece"), "low", 100),
    "brier": Column("Brier", _test("pair", "brier"), "low", 1, 4),
    "disagreement": Column("Disagreement %", _diversity("disagreement"), None, 100),
    "w2_per_weight": Column("W2² per weight", _diversity("w2_per_weight"), None, 1, 4),
}


def summaries(study: StudyData) -> dict[str, dict[str, Summary | None]]:
    """For each arm and column the mean, standard error and n over its finished repeats, in printed units."""
    table: dict[str, dict[str, Summary | None]] = {}
    for arm in study.arms:
        row = {}
        for name, column in COLUMNS.items():
            values = [column.value(record, study.lines.get((arm, seed))) for seed, record in study.finished(arm).items()]
            row[name] = summarize([column.factor * value for value in values if value is not None])
        table[arm] = row
    return table


def null_eces(study: StudyData) -> dict[str, float]:
    """For each arm the mean over seeds of what a perfectly calibrated model would score, in percent."""
    found = {}
    for arm in study.arms:
        scores = [null_ece(frame["confidence"].to_numpy()) for frame in study.predictions(arm).values()]
        if scores:
            found[arm] = 100 * sum(scores) / len(scores)
    return found


def caption(study: StudyData, nulls: dict[str, float]) -> list[str]:
    """What a reader must know to read the table, sentence by sentence."""
    header, settings = study.header, study.header["settings"]
    subset = " (cut to a subset)" if header.get("data_is_subset") else ""
    lines = [
        f"{header['question']}",
        f"Data: {header['data']}{subset}. Network: {settings['arch']} at width {settings['width']:g}, every arm trained "
        f"for {settings['epochs']} epochs, batch {settings['batch_size']} over {header['world_size']} worker(s); "
        f"preset {header['preset']}.",
        f"Scores of the pair's joint prediction ({settings['test_samples']} weight samples per peer) on test data: mean ± "
        "sample standard error over seeds (n); n = 1 has no error. Bold: best mean of the column, which is not yet a "
        "significant one. Disagreement and W2² are taken after the last epoch on validation data and on the weights.",
        f"Selection: {header['selection']}, from {header['samples']} Optuna trials per arm with a search "
        f"({_counts(study.searched)}), repeated on seeds {', '.join(map(str, study.seeds))}.",
    ]
    if nulls:
        spread = f"{min(nulls.values()):.2f} to {max(nulls.values()):.2f} %"
        lines.append(f"A perfectly calibrated model with these confidences would score an ECE of {spread} on average.")
    bad = {status: sum(study.count(arm, status) for arm in study.arms) for status in ("failed", "diverged", "stopped")}
    counted = [f"{number} {status}" for status, number in bad.items() if number]
    lines.append(f"Repeats that do not enter: {', '.join(counted)}." if counted else "No repeat failed or diverged.")
    if missing := study.missing():
        lines.append(f"Without a finished trial: {'; '.join(missing)}.")
    for record in study.records.values():
        lines += [f"Note on {record.id}: {note}." for note in record.notes]
    lines += [f"Left out: {problem}." for problem in study.problems]
    commit = header["environment"].get("commit", "unknown")
    lines.append(f"mldiv {header['environment'].get('mldiv')}, commit {commit}.")
    return lines


def _counts(searched: dict[str, int]) -> str:
    """How the search trials ended, in words."""
    if set(searched) <= {"finished"}:
        return f"{sum(searched.values())} in all"
    return ", ".join(f"{number} {status}" for status, number in sorted(searched.items()))


def _best(table: dict[str, dict[str, Summary | None]], name: str) -> float | None:
    means = [summary.mean for row in table.values() if (summary := row[name]) is not None]
    if COLUMNS[name].better is None or len(means) < 2:
        return None
    return max(means) if COLUMNS[name].better == "high" else min(means)


def _cells(study: StudyData, table: dict, bold: str, plus_minus: str) -> list[list[str]]:
    rows = []
    for arm in study.arms:
        cells = [arm]
        for name, column in COLUMNS.items():
            summary = table[arm][name]
            if summary is None:
                cells.append("-")
                continue
            mean = f"{summary.mean:.{column.digits}f}"
            if summary.mean == _best(table, name):
                mean = bold.format(mean)
            error = f" {plus_minus} {summary.error:.{column.digits}f}" if summary.error is not None else ""
            cells.append(f"{mean}{error} ({summary.n})")
        rows.append(cells)
    return rows


def markdown(study: StudyData, table: dict, nulls: dict[str, float]) -> str:
    """table.md: the caption, then the table."""
    frame = pd.DataFrame(_cells(study, table, "**{}**", "±"), columns=[study.header["scientific"], *_titles()])
    text = "\n\n".join(caption(study, nulls))
    parts = [f"# {study.header['name']}", text, frame.to_markdown(index=False, disable_numparse=True)]
    if chosen := study.header.get("chosen"):
        rows = [[arm, *(_setting(chosen.get(arm, {}).get(name)) for name in _searched(chosen))] for arm in study.arms]
        settings = pd.DataFrame(rows, columns=[study.header["scientific"], *_searched(chosen)])
        parts += ["Settings chosen by the searches:", settings.to_markdown(index=False, disable_numparse=True)]
    return "\n\n".join(parts) + "\n"


def _searched(chosen: dict[str, dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for settings in chosen.values() for name in settings))


def _setting(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def csv(study: StudyData, table: dict, nulls: dict[str, float]) -> str:
    """table.csv: a row per arm; mean, standard error and n of every column apart, unrounded; chosen settings; counts."""
    rows = []
    for arm in study.arms:
        row: dict[str, Any] = {"arm": arm}
        for name in COLUMNS:
            summary = table[arm][name]
            row |= {
                f"{name}_mean": summary.mean if summary else None,
                f"{name}_se": summary.error if summary else None,
                f"{name}_n": summary.n if summary else 0,
            }
        row["null_ece"] = nulls.get(arm)
        row |= {status: study.count(arm, status) for status in ("finished", "failed", "diverged", "stopped")}
        row |= {f"chosen_{name}": value for name, value in study.header.get("chosen", {}).get(arm, {}).items()}
        rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False)


def latex(study: StudyData, table: dict, nulls: dict[str, float]) -> str:
    """table.tex: a table environment for a document that loads booktabs."""
    head = [study.header["scientific"], *_titles()]
    body = _cells(study, table, "\\textbf{{{}}}", "±")
    rows = [" & ".join(map(_escape, row)) + r" \\" for row in body]
    text = " ".join(_escape(line) for line in caption(study, nulls))
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{text}}}",
            r"\centering\small",
            r"\begin{tabular}{l" + "r" * len(COLUMNS) + "}",
            r"\toprule",
            " & ".join(map(_escape, head)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _titles() -> list[str]:
    return [column.title for column in COLUMNS.values()]


def _escape(text: str) -> str:
    """LaTeX's special characters made plain; what is bold already stays so."""
    for character in "&%$#_":
        text = text.replace(character, "\\" + character)
    return text.replace("±", r"$\pm$").replace("²", r"$^2$").replace("~", r"\textasciitilde{}").replace("^2$ per", "^2$ per")
