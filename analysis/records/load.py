"""Read a study folder as data: its header, its trials, what could not be read. Nothing is computed."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.records import predictions
from analysis.records.consistency import check_header, check_size, why_not
from analysis.records.predictions import Members, Predictions
from mldiv.records.checked_files import Damaged, RecordError, read_lines
from mldiv.records.contents import PAIR, Assignment, StudyRecord, TrialRecord, scored_by
from mldiv.records.study_files import epoch_lines, read_assignments, read_study, read_trial, trial_folder

#: What a curve holds of every epoch's line: path in the line. Cosines of the means are averaged over layers. Each peer's NLL
#: and accuracy come beside, as peer_1_nll and so on.
CURVES = {
    "nll": ("validation", "pair", "nll"),
    "accuracy": ("validation", "pair", "accuracy"),
    "w2_per_weight": ("diversity", "w2_per_weight"),
    "w2_share_means": ("diversity", "w2_share_means"),
    "cosine": ("diversity", "cosine"),
    "feature_kl": ("diversity", "feature_kl"),
    "disagreement": ("diversity", "disagreement"),
    "own_feature_kl": ("train", "feature_kl"),
}


#: Terms of the loss whose gradients in the peers' means are looked at, as they act in it; all but the first relative to that.
GRADIENTS = ("nll", "kl", "mutual", "param_diversity", "feature_diversity")


@dataclass(frozen=True)
class Curve:
    """A trial epoch by epoch: stage, 1 or 2; values by the names of CURVES and of the peers' scores, NaN where not computed;
    each [epochs].

    points: when gradients were measured, in epochs trained, [points]; shares: by term of GRADIENTS the length of its gradient
    in the peers' means as a share of the cross-entropy's, NaN where it had no part in the loss, each [points]. survived: the
    lowest validation accuracy of the pretrained peers within the first epoch less that at its start, mean over them.
    """

    epoch: np.ndarray
    stage: np.ndarray
    values: dict[str, np.ndarray]
    points: np.ndarray = field(default_factory=lambda: np.zeros(0))
    shares: dict[str, np.ndarray] = field(default_factory=lambda: dict.fromkeys(GRADIENTS[1:], np.zeros(0)))
    survived: float = np.nan

    @property
    def switch(self) -> int | None:
        """The first epoch of stage two; None in a trial without."""
        return int(self.epoch[self.stage == 2][0]) if (self.stage == 2).any() else None


@dataclass
class StudyData:
    """A study's records.

    header: study.json; records: by arm and seed, of every repeat that has a readable one; searched: arm and record of every
    readable trial of the searches; lost: how many search trials have none; scaling: lines of scaling.jsonl; problems: what
    cannot be read, in words; rescored: whose labels the test scores are under, where not the study's own, in words; copy: what
    a compact copy says that it left out.
    """

    header: StudyRecord
    folder: Path
    records: dict[tuple[str, int], TrialRecord] = field(default_factory=dict)
    searched: list[tuple[str, TrialRecord]] = field(default_factory=list)
    lost: int = 0
    scaling: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rescored: str = ""
    copy: str = ""
    _curves: dict[str, Curve | None] = field(default_factory=dict)
    _epochs: dict[str, int] = field(default_factory=dict)
    _predictions: dict[str, Members | None] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        """The arms' names, in the study's order."""
        return self.header.arms

    @property
    def seeds(self) -> list[int]:
        """The seeds of the repeats."""
        return self.header.seeds

    @property
    def baseline(self) -> str | None:
        """The arm that the others are compared with."""
        return self.header.baseline

    @property
    def development(self) -> bool:
        """Whether images of the training set stand in for the test data."""
        return self.header.settings.get("test_split") == "development"

    @property
    def scored(self) -> str:
        """The data that the final scores are of, in words."""
        return "development images, held out from the training set" if self.development else "test data"

    @property
    def looks(self) -> list[list[int]]:
        """The seeds of each look that a study which adds seeds as needed has taken; the first counts as it comes.

        A later one is taken when all of its trials have ended, and what it chose is noted.
        """
        ended = self.header.chosen is not None and all(record.final for record in self.records.values())
        planned = [look for look in self.header.looks if look <= len(self.seeds)]
        taken = planned if ended else planned[:-1] or planned
        return [self.seeds[:look] for look in taken]

    def member(self, arm: str) -> str:
        """Return whose predictions the arm is judged by: "pair" or "peers"."""
        return self.header.members.get(arm, "pair")

    def finished(self, arm: str) -> dict[int, TrialRecord]:
        """Return the arm's finished repeats by seed; stopped, diverged and failed trials never enter a number."""
        found = ((seed, self.records.get((arm, seed))) for seed in self.seeds)
        return {seed: record for seed, record in found if record is not None and record.status == "finished"}

    def count(self, arm: str, status: str) -> int:
        """Count the arm's repeats that ended with ``status``."""
        return sum(1 for seed in self.seeds if (record := self.records.get((arm, seed))) and record.status == status)

    def missing(self) -> list[str]:
        """Name the repeats without a finished record, arm by arm."""
        lost = []
        for arm in self.arms:
            finished = self.finished(arm)
            without = [seed for seed in self.seeds if seed not in finished]
            if without:
                lost.append(f"{arm}: seed{'s' * (len(without) > 1)} {', '.join(map(str, without))}")
        return lost

    def curve(self, trial: str) -> Curve | None:
        """Return the trial's lines as arrays, read once; None when it has none, or a damaged file, named in ``problems``."""
        if trial not in self._curves:
            try:
                self._curves[trial] = self._read_curve(trial)
            except RecordError as error:
                self.note(error)
                self._curves[trial] = None
        return self._curves[trial]

    def _read_curve(self, trial: str) -> Curve | None:
        path = trial_folder(self.folder, trial) / "metrics.jsonl"
        lines = list(epoch_lines(path))
        if len(lines) != self._epochs.get(trial, len(lines)):
            raise Damaged(f"{path}: {len(lines)} of {self._epochs[trial]} epochs")
        return _curve(lines) if lines else None

    def predictions(self, arm: str, seed: int, member: str | None = None) -> list[Predictions] | None:
        """Return the test predictions of the arm's members in a finished repeat; None, named in ``problems``, if unreadable.

        None too where a compact copy left them out. member: whose, as `scored_by` names them (default: by whom the arm is
        judged).

        Raises: Damaged where they contradict the trial's scores.
        """
        found = self.members(self.records[arm, seed])
        names = scored_by(member or self.member(arm), self.records[arm, seed].test)
        return None if found is None or not found.keys() >= set(names) else [found[name] for name in names]

    def members(self, record: TrialRecord) -> Members | None:
        """Return the test predictions of all of a finished trial's members, as `predictions` does of some."""
        if record.id not in self._predictions:
            self._predictions[record.id] = self._read_predictions(record)
        return self._predictions[record.id]

    def take(self, arm: str, seed: int, record: TrialRecord, members: Members) -> None:
        """Put a record and its test predictions in the place of a finished repeat's own."""
        self.records[arm, seed], self._predictions[record.id] = record, members

    def _read_predictions(self, record: TrialRecord) -> Members | None:
        path = trial_folder(self.folder, record.id) / "predictions.parquet"
        if record.config.get("keep_predictions") == "none" and not os.path.lexists(path):
            return None
        try:
            return predictions.read(path, record)
        except predictions.Unreadable as error:
            self.note(f"{path} {error}")
            return None
        except Damaged as error:
            raise Damaged(f"{path} {error}") from None

    def note(self, problem: str | RecordError) -> None:
        """Name what cannot be read or does not belong here, once."""
        words = str(problem).replace(f"{self.folder}/", "")
        if words not in self.problems:
            self.problems.append(words)


def load(folder: Path) -> StudyData:
    """Read everything that tables and pictures need; curves are read when they are asked for.

    Raises: RecordError when there is no study in ``folder``, or one that is damaged or of another schema version. Damaged
    trials are not fatal, nor are those whose scores are not those of their predictions: each is left out and named in
    ``problems``.
    """
    study, problems = StudyData(read_study(folder), folder), list[str]()
    check_header(study.header, folder / "study.json")
    study.scaling = list(read_lines(folder / "scaling.jsonl", problems, check_size))
    assignments = read_assignments(folder, problems)
    if not assignments and any(folder.glob("trials/*/trial.json")):
        problems.append(
            f"{folder / 'assignments.jsonl'}: missing or empty, and no trial's arm is known; run the study's command "
            "again, which writes it anew and keeps every trial"
        )
    for problem in problems:
        study.note(problem)
    for item in assignments:
        _enter(study, item)
    for arm in study.arms:
        for seed in study.finished(arm):
            try:
                study.predictions(arm, seed)
            except Damaged as error:
                study.note(error)
                del study.records[arm, seed]
    return study


def _enter(study: StudyData, item: Assignment) -> None:
    """Put an assignment's record where it belongs; of two trials of one repeat the last counts, the other is named."""
    record = _record(study, item)
    if item.phase == "repeat" and record is not None:
        before = study.records.get((item.arm, item.seed), record)
        if before.id != record.id:
            study.note(f"trials/{before.id}/trial.json: {item.arm}, seed {item.seed} is assigned to {record.id} too")
        study.records[item.arm, item.seed] = record
    elif item.phase == "search" and record is not None:
        study.searched.append((item.arm, record))
    elif item.phase == "search":
        study.lost += 1


def _record(study: StudyData, item: Assignment) -> TrialRecord | None:
    """Read an assignment's record; None, named in ``problems``, where there is none that can be used."""
    path = trial_folder(study.folder, item.trial)
    if not os.path.lexists(path / "trial.json"):
        return None
    try:
        record = read_trial(path)
    except RecordError as error:
        study.note(error)
        return None
    if (why := why_not(study.header, item, record)) is not None:
        study.note(f"trials/{item.trial}/trial.json: {why}")
        return None
    if record.status == "finished":
        study._epochs[record.id] = record.epochs
    return record


def _curve(lines: list[dict[str, Any]]) -> Curve:
    epoch, stage = (np.array([line[name] for line in lines]) for name in ("epoch", "stage"))
    peers = [member for member in lines[0].get("validation", {}) if member != PAIR]
    paths = CURVES | {f"{peer}_{name}": ("validation", peer, name) for peer in peers for name in ("nll", "accuracy")}
    values = {name: np.array([_at(line, path) for line in lines]) for name, path in paths.items()}
    return Curve(epoch, stage, values, *_gradients(lines), _survived(lines[0].get("first_epoch") or []))


def _survived(points: list[dict[str, float | None]]) -> float:
    """Read how far the pretrained peers' accuracy fell below that of their start; NaN where none was pretrained."""
    rows = [[np.nan if value is None else value for name, value in point.items() if name != "at"] for point in points]
    means = [float(np.mean(row)) for row in rows if row]
    return min(means) - means[0] if means else np.nan


def _gradients(lines: list[dict[str, Any]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read when gradients were measured, and each term's as a share of the cross-entropy's."""
    found = [(line["epoch"] + point["at"], point) for line in lines for point in line.get("gradients") or []]
    lengths = {term: np.array([_in_means(point.get(term)) for _, point in found]) for term in GRADIENTS}
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = {term: lengths[term] / lengths["nll"] for term in GRADIENTS[1:]}
    return np.array([at for at, _ in found], dtype=float), shares


def _in_means(parts: dict[str, float | None] | None) -> float:
    lengths = [np.nan if value is None else value for name, value in (parts or {}).items() if name.startswith("mean_")]
    return float(sum(lengths)) if lengths else np.nan


def of_peers(values: Mapping[str, Any], name: str) -> list[Any]:
    """Return the score ``name`` ("nll", "accuracy") of each peer among a curve's values, in the peers' order."""
    return [value for key, value in values.items() if key.startswith("peer_") and key.endswith(f"_{name}")]


def _at(line: dict[str, Any], path: tuple[str, ...]) -> float:
    value: Any = line
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, dict):
        numbers = [number for number in value.values() if number is not None]
        return float(np.mean(numbers)) if numbers else np.nan
    return np.nan if value is None else float(value)
