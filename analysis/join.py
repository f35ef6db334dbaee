"""Join several studies in one table, as papers print them: a block of rows for each network and data set."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import tables
from analysis.answer.document import describe
from analysis.build import FORMATS, Analysis, analyse, write
from analysis.comparison.effects import COMPARED, verdict
from analysis.markdown import table
from analysis.records.columns import GROUPS, mean_over_members
from analysis.report.page import document
from analysis.stats.aggregate import aggregate, improvement
from analysis.stats.statistics import holm, interval_name
from mldiv.environment.terminal import nearby
from mldiv.records.checked_files import RecordError
from mldiv.records.contents import IDENTITY

SUMMED = (
    "Each arm that is in several studies: the interquartile mean of its paired differences to the baselines, over all seeds of "
    "all studies (above 0: better), and how probable it is that a run of it has a lower NLL than one of the baseline, on a "
    "study drawn at random. Intervals draw seeds within each study: they hold for these data sets, networks and test images "
    "and say nothing of others; with fewer than 8 seeds they are too narrow. A gain here and a loss there cancel: each study's "
    "own verdict stands above, and none is made here."
)


def join(folders: Sequence[Path], out: Path | None = None, formats: Collection[str] = FORMATS) -> str:
    """Write table.md, .csv, .tex, answer.md and report.html of several studies; return the terminal's text.

    Every study keeps its own baseline; p-values are corrected over the comparisons of all studies, score by score. out: the
    folder to write to (default: joined, beside the first); formats: which are written, besides the answer.

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
    return f"{said}\nIn {nearby(out)}: {', '.join(write(texts, out, formats))}"


def label(found: list[Analysis]) -> dict[str, Analysis]:
    """Name the studies by network and data, and by name, folder or number where those do not tell them apart."""
    names = ["{arch} x {width:g}, {data}".format_map(made.study.header.settings) for made in found]
    for further in ([made.study.header.name for made in found], [made.study.folder.name for made in found]):
        names = [f"{name}, {more}" if names.count(name) > 1 else name for name, more in zip(names, further, strict=True)]
    names = [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]
    return dict(zip(names, found, strict=True))


def _rows(studies: dict[str, Analysis], names: list[str], bold: str) -> list[list[str]]:
    return [[study, *row] for study, made in studies.items() for row in tables.cells(made.table, names, bold, said=0)]


def markdown(studies: dict[str, Analysis]) -> str:
    """Write each study's caption, then a table for each group of columns, the best mean of a study's column in bold."""
    parts = ["# Several studies"]
    for name, made in studies.items():
        parts += [f"**{name}**", " ".join(tables.caption(made.study))]
    for group, words in GROUPS.items():
        shown = _columns(studies, group)
        if shown:
            head = ["network, data", "arm", *tables.titles(shown)]
            rows = _rows(studies, shown, tables.MARKDOWN_BOLD)
            parts += [words, table(head, rows)]
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
    if any(made.contrasts["nll"] for made in studies.values()):
        lines += ["Contrasts stand in each study's own answer.", ""]
    return "\n".join([*lines, *summary(studies)])


def summary(studies: dict[str, Analysis]) -> list[str]:
    """Sum up, as Markdown, what an arm gains in NLL over the baselines of all studies that have it, two at least.

    Differences are in units of what matters, so that data sets of unlike difficulty weigh alike.
    """
    rows, again = [], 0
    for arm in dict.fromkeys(arm for made in studies.values() for arm in made.differences["nll"]):
        counted: set[tuple] = set()
        found = [_nll(made, arm, counted) for made in studies.values()]
        pairs = [(own, baseline) for own, baseline, _ in found if len(own)]
        again += sum(same for _, _, same in found)
        if len(pairs) > 1:
            of_arm, of_baseline = ([pair[place] for pair in pairs] for place in (0, 1))
            gains = [baseline - own for own, baseline in pairs]
            mean, ends = aggregate(gains)
            chance, bounds = improvement([-own for own in of_arm], [-baseline for baseline in of_baseline])
            rows.append([arm, len(pairs), sum(map(len, gains)), f"{mean:+.2f} [{ends[0]:+.2f}, {ends[1]:+.2f}]",
                         f"{100 * chance:.0f} % [{100 * bounds[0]:.0f}, {100 * bounds[1]:.0f}]"])  # fmt: skip
    same = f"{again} pairs are of the same trials as those of a study above, and count once." if again else ""
    if not rows:
        return [same, ""] if same else []
    head = ["arm", "studies", "pairs", "gain in NLL, in units of what matters [95 %]", "probability of improvement [95 %]"]
    return ["# Over all studies", "", f"{SUMMED} {same}".rstrip(), "", table(head, rows), ""]


def _nll(made: Analysis, arm: str, counted: set[tuple]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return an arm's and the baseline's test NLL over what matters, on the seeds that both finished, [seeds] each.

    counted: pairs of trials of other studies, which are left out, and to which these are added; the last of what is returned
    is how many were left out.
    """
    runs = [made.repeats.get(name, {}) for name in (arm, made.study.baseline or "")]
    both = [seed for seed in runs[0] if seed in runs[1] and arm in made.differences["nll"]]
    keys = {seed: tuple((of[seed].record.id, of[seed].record.data.get("fingerprint")) for of in runs) for seed in both}
    seeds = [seed for seed in both if keys[seed] not in counted]
    counted |= {key for key in keys.values() if all(IDENTITY.fullmatch(trial) for trial, _ in key)}
    values = [[mean_over_members(of[seed].record.test, of[seed].member, "nll") for seed in seeds] for of in runs]
    own, baseline = (np.array(column, float) / made.study.header.margins["nll"] for column in values)
    known = np.isfinite(own) & np.isfinite(baseline)
    return own[known], baseline[known], len(both) - len(seeds)
