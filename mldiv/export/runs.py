"""A study's trials as other tools know runs: a run for each trial, whatever it answers for, with all that its records say."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mldiv.records import study_files
from mldiv.records.checked_files import RecordError
from mldiv.records.contents import ARCHIVE, Assignment, StudyRecord, TrialRecord, without_places

#: Parts of a record that hold final scores; those on validation data are under "final", beside each epoch's.
SCORES = (
    "test", "test_scaled", "calibration_temperature", "recalibrated", "ensembles", "uncertainty", "other", "shift", "posterior",
    "generalized", "switch", "size", "cost",
)  # fmt: skip
#: What `python -m analysis` leaves beside a study's records.
TABLES, PICTURES = ("table.md", "table.csv", "table.tex", "answer.md", "report.html"), (".png", ".pdf")


@dataclass(frozen=True)
class Epoch:
    """An epoch's numbers by name, as validation/pair/nll, and when it ended, in seconds since 1970."""

    epoch: int
    ended: float
    values: dict[str, float]


@dataclass(frozen=True)
class Run:
    """A trial that has ended, or is still running.

    arm, seed, phase: what it answers for; roles: that and whatever else, in words; scores: by name, as test/pair/nll.
    """

    trial: str
    arm: str
    seed: int
    phase: str
    roles: list[str]
    status: str
    reason: str
    settings: dict[str, str | int | float | bool]
    epochs: list[Epoch]
    scores: dict[str, float]
    notes: list[str]

    @property
    def name(self) -> str:
        """What a run is called in its arm's group."""
        return f"seed {self.seed}" if self.phase == "repeat" else f"search {self.trial}"

    @property
    def last(self) -> Epoch:
        """The last epoch; before there is one, the first, without numbers."""
        return self.epochs[-1] if self.epochs else Epoch(0, 0.0, {})

    @property
    def digest(self) -> str:
        """A hash of all but times: a run that is exported already with the same one is left as it is."""
        lines = [[line.epoch, line.values] for line in self.epochs]
        content = [self.trial, self.roles, self.status, self.reason, self.settings, lines, self.scores, self.notes]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Exported:
    """A study to export. files: tables and pictures that are there; problems: what cannot be read, in words; trials: all that
    count, with those that cannot be read; gone: what earlier exports wrote and no longer counts; run: what the run of the files
    is called, another one of another study in the folder."""

    header: StudyRecord
    runs: list[Run]
    files: list[Path]
    problems: list[str]
    trials: frozenset[str]
    gone: frozenset[str] = frozenset()
    run: str = "study"

    @property
    def digest(self) -> str:
        """A hash of its files' content."""
        parts = [path.name.encode() + path.read_bytes() for path in self.files]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def read(folder: Path) -> Exported:
    """Read all runs of the study in a folder, in the order of its assignments; a trial that answers twice is one run.

    Raises: RecordError where there is no study, or a compact copy alone.
    """
    if (folder / ARCHIVE).exists() and not (folder / "study.json").exists():
        how = f"`python -m analysis {folder} --unpack FOLDER` writes the records, then export FOLDER"
        raise RecordError(f"{folder} holds a compact copy alone: {how}")
    header, problems, runs = study_files.read_study(folder), list[str](), list[Run]()
    roles: dict[str, list[Assignment]] = {}
    for item in study_files.read_assignments(folder, problems):
        roles.setdefault(item.trial, []).append(item)
    for trial, items in roles.items():
        if not (study_files.trial_folder(folder, trial) / "trial.json").exists():
            continue
        try:
            runs.append(_run(folder, items))
        except (RecordError, OSError) as error:
            problems.append(str(error))
    there = [folder / name for name in TABLES] + sorted(path for path in folder.iterdir() if path.suffix in PICTURES)
    return Exported(header, runs, [path for path in there if path.is_file()], problems, frozenset(roles))


def _run(folder: Path, items: list[Assignment]) -> Run:
    first = next((item for item in items if item.phase == "repeat"), items[0])
    place = study_files.trial_folder(folder, first.trial)
    record = study_files.read_trial(place)
    if not (place / "metrics.jsonl").exists():
        raise RecordError(f"trial {first.trial} is {record.status}, and none of its epochs has ended")
    lines, ended = list(study_files.epoch_lines(place / "metrics.jsonl")), (place / "metrics.jsonl").stat().st_mtime
    public = without_places(record.config)
    settings = {name: "none" if value is None else value for name, value in public.items() if name != "data_root"}
    return Run(
        first.trial, first.arm, first.seed, first.phase, [f"{item.arm}, {item.phase}, seed {item.seed}" for item in items],
        record.status, record.reason or "", settings, _epochs(lines, ended), _scores(record), list(record.notes),
    )  # fmt: skip


def _epochs(lines: list[dict[str, Any]], ended: float) -> list[Epoch]:
    """Return the lines' numbers; the last epoch ended when the file was written, those before it as many seconds earlier."""
    found: list[Epoch] = []
    for line in reversed(lines):
        values = {name: line[name] for name in ("train", "validation", "diversity", "lr", "seconds", "stage")}
        found.insert(0, Epoch(line["epoch"], ended, numbers(values)))
        ended -= line["seconds"]
    return found


def _scores(record: TrialRecord) -> dict[str, float]:
    whole = {"final": record.validation, "epochs": record.epochs, "total_seconds": record.seconds}  # an epoch has seconds too
    return numbers({name: getattr(record, name) for name in SCORES} | whole)


def numbers(value: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers in nested objects by their path, as test/pair/nll; what is none is left out."""
    found: dict[str, float] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            found |= numbers(item, f"{prefix}{name}/")
        elif isinstance(item, int | float) and not isinstance(item, bool):
            found[prefix + name] = float(item)
    return found
