"""A study folder as data: its header, its repeated trials, what could not be read. Records only; nothing is computed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mldiv.records import (
    SCHEMA,
    RecordError,
    TrialRecord,
    read_assignments,
    read_json,
    read_lines,
    read_trial,
    trial_folder,
)


@dataclass
class StudyData:
    """records: (arm, seed) -> the repeated trial's record, for every planned one that can be read; planned: all of them;
    lines: the last line of metrics.jsonl of each; searched: number of search trials by status; problems: in words."""

    header: dict[str, Any]
    folder: Path
    planned: dict[tuple[str, int], str]
    records: dict[tuple[str, int], TrialRecord]
    lines: dict[tuple[str, int], dict[str, Any]]
    searched: dict[str, int]
    problems: list[str] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        return list(self.header["arms"])

    @property
    def seeds(self) -> list[int]:
        return list(self.header["seeds"])

    def finished(self, arm: str) -> dict[int, TrialRecord]:
        """The arm's finished repeats by seed. Stopped, diverged and failed trials never enter a number."""
        return {seed: record for (name, seed), record in self.records.items() if name == arm and record.status == "finished"}

    def count(self, arm: str, status: str) -> int:
        return sum(1 for (name, _), record in self.records.items() if name == arm and record.status == status)

    def missing(self) -> list[str]:
        """The repeats without a finished record, in words."""
        lost = []
        for arm in self.arms:
            without = [seed for seed in self.seeds if seed not in self.finished(arm)]
            if without:
                lost.append(f"{arm}: seed{'s' * (len(without) > 1)} {', '.join(map(str, without))}")
        return lost

    def predictions(self, arm: str) -> dict[int, pd.DataFrame]:
        """The pair's test predictions of each finished repeat, by seed; unreadable files are named in `problems`."""
        frames = {}
        for seed, record in self.finished(arm).items():
            path = trial_folder(self.folder, record.id) / "predictions.parquet"
            try:
                frame = pd.read_parquet(path)
            except (OSError, ValueError) as error:
                problem = f"{path.relative_to(self.folder)} cannot be read ({type(error).__name__})"
                if problem not in self.problems:
                    self.problems.append(problem)
                continue
            frames[seed] = frame[frame["member"] == "pair"]
        return frames


def load(folder: Path) -> StudyData:
    """Everything that tables and pictures need.

    Raises: RecordError when there is no study in ``folder``, or one of another schema version. Damaged trials are not
    fatal: each is left out and named in ``problems``.
    """
    header = read_json(folder / "study.json")
    if header.get("schema") != SCHEMA:
        raise RecordError(f"{folder / 'study.json'}: schema version {header.get('schema')!r}, this analysis reads {SCHEMA}")
    study = StudyData(header, folder, {}, {}, {}, {})
    for item in read_assignments(folder):
        try:
            path = trial_folder(folder, item.trial)
            record = read_trial(path) if (path / "trial.json").exists() else None
            lines = list(read_lines(path / "metrics.jsonl"))
        except RecordError as error:
            study.problems.append(str(error).replace(f"{folder}/", ""))
            record, lines = None, []
        if item.phase == "search":
            status = record.status if record else "missing"
            study.searched[status] = study.searched.get(status, 0) + 1
            continue
        study.planned[item.arm, item.seed] = item.trial
        if record is not None:
            study.records[item.arm, item.seed] = record
        if lines:
            study.lines[item.arm, item.seed] = lines[-1]
    return study
