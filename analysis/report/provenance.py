"""Tell where a study's numbers come from: what was set, what failed, what it cost, which versions. Rows of text, no HTML."""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

from analysis.records.load import StudyData
from mldiv.environment.terminal import first_few
from mldiv.records.contents import COSTS, TrialRecord

STATUSES = ("finished", "running", "stopped", "diverged", "failed")
#: Settings that say where things lie on a machine.
PLACES = frozenset({"data_root", "train_labels", "pretrained"})
#: Trials named beside a reason or note.
_some = partial(first_few, most=5, between="; ")

Rows = list[list[Any]]


def value_of(study: StudyData, arm: str, setting: str) -> Any:
    """Return the setting that an arm's repeats are trained with: the search's choice, else the arm's, else the study's."""
    header = study.header
    for source in ((header.chosen or {}).get(arm), header.changes.get(arm), header.settings, header.parameters):
        if source and setting in source:
            return source[setting]
    return None


def roles(study: StudyData) -> dict[str, str]:
    """Return every setting's role: scientific (differs between arms by design), tuned (by each arm's search), both or fixed."""
    header = study.header
    scientific = {name for changes in header.changes.values() for name in changes}
    tuned = {name for names in header.searched.values() for name in names if header.samples}
    names = [*header.settings, *sorted((scientific | tuned) - set(header.settings))]
    words = {
        (True, True): "scientific, tuned in some arms", (True, False): "scientific", (False, True): "tuned",
        (False, False): "fixed",
    }  # fmt: skip
    return {name: words[name in scientific, name in tuned] for name in names if name not in PLACES}


def settings(study: StudyData) -> Rows:
    """List a row per setting: name, value (or that it differs), role."""
    rows = []
    for name, role in roles(study).items():
        values = {text(value_of(study, arm, name)) for arm in study.arms}
        rows.append([name, values.pop() if len(values) == 1 else "differs by arm", role])
    return rows


def by_arm(study: StudyData) -> tuple[list[str], Rows]:
    """List the settings that are not fixed, and a row of values per arm; an asterisk marks what the arm's search chose."""
    names = [name for name, role in roles(study).items() if role != "fixed"]
    rows = []
    for arm in study.arms:
        chosen = (study.header.chosen or {}).get(arm, {}) if study.header.samples else {}
        rows.append([arm, *(text(value_of(study, arm, name)) + "*" * (name in chosen) for name in names)])
    return names, rows


def design(study: StudyData) -> Rows:
    """List the study's plan."""
    header = study.header
    seeds = len(header.search_seeds)
    search = f"{header.samples} settings per arm, each with {seeds} seed{'s' * (seeds > 1)}"
    return [
        ["data", header.data + (" (cut to a subset)" if header.data_is_subset else "")],
        ["preset", header.preset],
        ["baseline", header.baseline or "none"],
        ["seeds of the repeats", ", ".join(map(str, study.seeds))],
        ["search", search if header.has_search else "none"],
        ["selection", header.selection if header.has_search else "none"],
        ["early stopping of searched trials", (header.has_search and header.early_stopping) or "none"],
        ["workers per trial", text(header.world_size)],
    ]


def counts(study: StudyData) -> tuple[list[str], Rows]:
    """Count how trials ended: a row per arm for its repeats, one for all searches; columns of 0 are left out."""
    lines: list[tuple[str, list[int]]] = []
    for arm in study.arms:
        repeats = [study.count(arm, status) for status in STATUSES]
        lines.append((arm, [*repeats, len(study.seeds) - sum(repeats)]))
    if study.searched or study.lost:
        ends = Counter(record.status for _, record in study.searched)
        lines.append(("all searches", [*(ends[status] for status in STATUSES), study.lost]))
    titles = [*STATUSES, "without a record"]
    kept = [place for place, title in enumerate(titles) if title == "finished" or any(line[place] for _, line in lines)]
    return [titles[place] for place in kept], [[name, *(line[place] for place in kept)] for name, line in lines]


def reasons(study: StudyData) -> Rows:
    """List why trials did not finish: status, reason, how many, which."""
    ends = [(where, record) for where, record in _all(study) if record.status not in ("finished", "running")]
    groups: dict[tuple[str, str], list[str]] = {}
    for where, record in ends:
        groups.setdefault((record.status, record.reason or "no reason recorded"), []).append(f"{where} ({record.id})")
    return [[status, reason, len(which), _some(which)] for (status, reason), which in sorted(groups.items())]


def notes(study: StudyData) -> Rows:
    """List what trials noted: note, how many trials, which."""
    groups: dict[str, list[str]] = {}
    for where, record in _all(study):
        for note in dict.fromkeys(record.notes):
            groups.setdefault(note, []).append(f"{where} ({record.id})")
    return [[note, len(which), _some(which)] for note, which in groups.items()]


def cost(study: StudyData) -> Rows:
    """Add up trials, epochs by where they came from, and device hours of searches, repeats and both, a trial once each."""
    repeats = {record.id: record for record in study.records.values()}
    searched = {record.id: record for _, record in study.searched}
    workers = study.header.world_size
    parts = {"searches": searched, "repeats": repeats, "together": searched | repeats}
    return [[name, *_cost(list(records.values()), workers)] for name, records in parts.items()]


def _cost(records: list[TrialRecord], workers: int) -> list[Any]:
    sums = [sum(record.cost.get(name, 0) for record in records) for name in COSTS]
    hours = workers * sum(record.seconds for record in records) / 3600
    return [f"{len(records):,}", *(f"{epochs:,}" for epochs in sums), f"{hours:,.2f}" if hours >= 0.1 else f"{hours:.2g}"]


def environments(study: StudyData) -> Rows:
    """List versions and hardware: the study's own, then those of its trials, with numbers of trials where they differ."""
    rows = [[f"study: {name}", text(value)] for name, value in study.header.environment.items()]
    found: dict[str, Counter[str]] = {}
    for _, record in _all(study):
        for name, value in record.environment.items():
            found.setdefault(name, Counter())[text(value)] += 1
    for name, values in sorted(found.items()):
        words = [value if len(values) == 1 else f"{value} ({number} trials)" for value, number in sorted(values.items())]
        rows.append([f"trials: {name}", "; ".join(words)])
    return rows


def text(value: Any) -> str:
    """Write a setting's value as a person would."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {text(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _all(study: StudyData) -> Iterable[tuple[str, TrialRecord]]:
    """Return every trial once, named after its repeat where it is one."""
    named = {record.id: (f"{arm}, search", record) for arm, record in study.searched}
    named |= {record.id: (f"{arm}, seed {seed}", record) for (arm, seed), record in study.records.items()}
    return named.values()
