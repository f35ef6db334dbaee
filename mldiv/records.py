"""What a study leaves behind: the truth from which every table, figure and resumed run is rebuilt.

A study folder holds

    study.json           question, arms, settings, selection rule, versions, commit; at the end also what was chosen
    assignments.jsonl    one line per (arm, phase, seed): which trial answers for it
    trials/<id>/         trial.json, metrics.jsonl (a line per epoch), predictions.parquet (an image and member a row)
    scaling.jsonl        a size a line: time and memory of a step, where the study measures them

A trial's id is the hash of its configuration and seed without paths, so the same trial is the same everywhere. Only the
standard library is used here: the analysis reads these files without torch, ray or optuna.
"""

import hashlib
import json
import math
import os
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

SCHEMA = 3

ROOT = Path(__file__).resolve().parent.parent

#: A trial in one of these states is never trained again. ``failed`` is: its cause may be gone.
FINAL = frozenset({"finished", "stopped", "diverged"})
STATUSES = FINAL | {"running", "failed"}

#: What a trial cost: epochs that it trained itself, that it took from the store, and of pretraining that it trained.
COSTS = ("epochs_trained", "epochs_shared", "pretraining_epochs_trained")

#: The member that is all peers together, however many they are.
PAIR = "pair"


class RecordError(ValueError):
    """A record that cannot be read; the message names the file and what is wrong with it."""


def members_of(peers: int) -> tuple[str, ...]:
    """Name whose predictions a trial with so many peers records: peer_1, peer_2, ..., and all of them together."""
    return (*(f"peer_{number}" for number in range(1, peers + 1)), PAIR)


def scored_by(member: str, members: Iterable[str]) -> tuple[str, ...]:
    """Say by which of ``members`` an arm is judged: by all peers together ("pair") or by each peer alone ("peers", a score is
    then their mean).

    Raises: KeyError for another ``member``.
    """
    return {"pair": (PAIR,), "peers": tuple(name for name in members if name != PAIR)}[member]


@dataclass
class TrialRecord:
    """``trial.json``: one trial's settings, how it ended, and its scores on validation and test data."""

    id: str
    config: dict[str, Any]
    status: str = "running"
    reason: str | None = None
    epochs: int = 0
    attempts: int = 1
    seconds: float = 0.0
    validation: dict[str, dict[str, Any]] = field(default_factory=dict)
    test: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: By member: the temperature fitted on validation data, and the test scores after dividing log-probabilities by it.
    calibration_temperature: dict[str, float] = field(default_factory=dict)
    test_scaled: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: By member: how well its uncertainties detect its errors on test data, and images of another data set.
    uncertainty: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: How Bayesian the trial is, on validation data at its end. By member: NLL and accuracy of the mean network beside those of
    #: the samples; of a peer the median of sigma over |mu|; of all together the mutual information within peers and between.
    posterior: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    #: Both distances between the peers, raw, when stage two began.
    switch: dict[str, float] = field(default_factory=dict)
    cost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COSTS, 0))
    notes: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def final(self) -> bool:
        """Whether the trial is never trained again."""
        return self.status in FINAL


@dataclass(frozen=True)
class Assignment:
    """A line of ``assignments.jsonl``: ``trial`` answers for ``arm`` in ``phase`` ("search" or "repeat") with ``seed``."""

    arm: str
    phase: str
    seed: int
    trial: str


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """``study.json``: a study's question and design, the base configuration of its trials, what its searches chose.

    arms: in the order of the tables; changes: by arm, what it sets in ``settings``; compare: arms that are compared with the
    baseline; contrasts: name -> arms' weights; members: arm -> "peers", where not "pair"; samples: Optuna trials of
    each searched arm, each trained with every one of search_seeds; searched: by arm, the settings; batch: suggestions open at
    once; surface: alpha's and beta's positive range, where their response surface is drawn; data: the data in words;
    world_size: worker processes of a trial; fingerprint: hash of all images and labels. chosen and importance come at the
    study's end: by arm, the settings that its search chose, and each one's share in what makes a trial good.
    """

    compare: list[str]
    contrasts: dict[str, dict[str, float]] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    samples: int
    search_seeds: list[int]
    searched: dict[str, list[str]]
    batch: int = 1
    selection: str
    objectives: list[str] = field(default_factory=list)
    early_stopping: str | None = None
    surface: dict[str, list[float]] | None = None
    data_is_subset: bool
    world_size: int
    schema: int = SCHEMA
    name: str
    question: str
    scientific: str
    preset: str
    baseline: str | None
    arms: list[str]
    changes: dict[str, dict[str, Any]]
    seeds: list[int]
    settings: dict[str, Any]
    data: str
    environment: dict[str, Any]
    chosen: dict[str, dict[str, Any]] | None = None
    importance: dict[str, dict[str, float]] | None = None
    fingerprint: str | None = None

    @property
    def has_search(self) -> bool:
        """Whether any arm was searched."""
        return self.samples > 0 and any(self.searched.values())


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """A trial to train, as it travels to whoever trains it.

    folder: the place of the trial's folder; store: the place of the store that it shares with others, None for one of its own;
    store_limit: bytes; publish: epochs of its first stage that others want; bracket: the trials that it is compared with by
    early stopping, None for a repeat.
    """

    trial: str
    config: dict[str, Any]
    folder: str
    store: str | None
    store_limit: int
    publish: list[int] = field(default_factory=list)
    bracket: str | None = None

    @classmethod
    def read(cls, value: dict[str, Any]) -> "TrialTask":
        """Return the task in a dictionary, as `dataclasses.asdict` makes it.

        Raises: RecordError for missing or unknown fields, or one of a wrong type.
        """
        return _checked(cls, value, "a trial's task")


@lru_cache
def commit() -> str:
    """Return the checkout's short commit, with a note when it has uncommitted changes; "unknown" where mldiv is in none."""
    with suppress(OSError, subprocess.CalledProcessError):
        ask = ["git", "-C", str(ROOT), "rev-parse", "--show-toplevel", "--short", "HEAD"]
        top, name = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.splitlines()
        if Path(top) != ROOT:  # installed inside somebody's repository
            return "unknown"
        changed = subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True)
        return name + (" (with uncommitted changes)" if changed.stdout.strip() else "")
    return "unknown"


@lru_cache
def code() -> str:
    """Return the first 12 hex digits of SHA-256 over the package's sources, which say more than a commit does."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def trial_id(config: dict[str, Any]) -> str:
    """Return the first 16 hex digits of SHA-256 over the configuration's canonical JSON."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def trial_folder(study: Path, trial: str) -> Path:
    """Return the trial's folder in a study's."""
    return Path(study) / "trials" / trial


def finite(value: Any) -> Any:
    """Return ``value`` with every non-finite number replaced by None (JSON has no NaN), in nested dicts and lists too."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one and nothing between.

    Raises: OSError, with no trace left, when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object as JSON, whole or not at all."""
    write_atomically(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


#: What to do about a damaged file.
MEND = {
    "study.json": "remove it and run the study's command again, which writes it anew and keeps every trial",
    "trial.json": "remove it, and the study's command goes on with this trial from its checkpoint",
}

#: Fields that a file must hold although a new record begins without them.
ALWAYS = frozenset({"status"})

Record = TypeVar("Record", bound=TrialRecord | StudyRecord | TrialTask)


def _read(kind: type[Record], path: Path) -> Record:
    """Read the record in a file.

    Raises: RecordError, naming the file and what to do, when it is missing or damaged, or of another schema version.
    """
    mend = MEND[path.name]
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: not valid JSON ({error}); {mend}") from None
    if not isinstance(value, dict):
        raise RecordError(f"{path}: expected a JSON object, found {type(value).__name__}; {mend}")
    if value.get("schema") != SCHEMA:
        raise RecordError(
            f"{path}: schema version {value.get('schema')!r}, this mldiv reads {SCHEMA}; take the version that wrote it, or "
            "train anew in another folder"
        )
    return _checked(kind, value, str(path), f"; {mend}")


def _checked(kind: type[Record], value: dict[str, Any], where: str, mend: str = "") -> Record:
    """Make a record of a dictionary.

    Raises: RecordError, naming ``where``, for missing or unknown fields and for values of a wrong type.
    """
    known = {item.name: item for item in fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise RecordError(f"{where}: unknown fields {', '.join(unknown)}; if a newer mldiv wrote them, take that one{mend}")
    needed = {name for name, item in known.items() if item.default is item.default_factory is MISSING} | ALWAYS & set(known)
    if missing := sorted(needed - set(value)):
        raise RecordError(f"{where}: fields {', '.join(missing)} are missing{mend}")
    for name, item in value.items():
        if not _fits(item, known[name].type):
            raise RecordError(f"{where}: {name} = {item!r:.80}: expected {_words(known[name].type)}{mend}")
    return kind(**value)


def _fits(value: Any, annotation: Any) -> bool:
    """Return whether a value, as JSON has it, is of an annotated type. None stands for a number that was not finite."""
    inside = get_args(annotation)
    if annotation is Any:
        return True
    if isinstance(annotation, UnionType):
        return any(_fits(value, kind) for kind in inside)
    if get_origin(annotation) is list:
        return isinstance(value, list) and all(_fits(item, inside[0]) for item in value)
    if get_origin(annotation) is dict:
        return isinstance(value, dict) and all(_fits(item, inside[1]) for item in value.values())
    if annotation is float:
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool))


def _words(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def write_study(folder: Path, record: StudyRecord) -> None:
    """Write ``study.json``; what is not known yet, or was not when it was begun, is left out."""
    later = ("chosen", "importance", "fingerprint")
    write_json(folder / "study.json", {name: value for name, value in asdict(record).items()
                                       if value is not None or name not in later})  # fmt: skip


def read_study(folder: Path) -> StudyRecord:
    """Read the study in ``folder``.

    Raises: RecordError, naming the file and what to do, when it is missing, damaged or of another schema version.
    """
    return _read(StudyRecord, folder / "study.json")


def write_trial(folder: Path, record: TrialRecord) -> None:
    """Write ``trial.json``."""
    write_json(folder / "trial.json", asdict(record))


def read_trial(folder: Path) -> TrialRecord:
    """Read the trial in ``folder``.

    Raises: RecordError when it is missing or damaged, of another schema version, or holds unknown fields or states.
    """
    record = _read(TrialRecord, folder / "trial.json")
    if record.status not in STATUSES:
        known = ", ".join(sorted(STATUSES))
        raise RecordError(f"{folder / 'trial.json'}: unknown status {record.status!r}, expected one of {known}")
    return record


def failed_trial(folder: Path, task: TrialTask, reason: str) -> TrialRecord:
    """Return the trial's record as it stands in ``folder``, or a new one where it cannot be read, marked as failed."""
    try:
        record = read_trial(folder)
    except (RecordError, OSError):
        record = TrialRecord(task.trial, task.config)
    record.status, record.reason = "failed", reason
    return record


def find_trial(study: Path, trial: str) -> TrialRecord | None:
    """Read the record of ``trial`` in a study folder; None when it has none yet."""
    folder = trial_folder(study, trial)
    return read_trial(folder) if (folder / "trial.json").exists() else None


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line and push it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(value), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; none when there is no file.

    Raises: RecordError, naming file and line, at a line that is not valid JSON (a truncated write, say).
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise RecordError(f"{path}, line {number}: not valid JSON ({error})") from None


def keep_epochs(path: Path, epochs: int, extra: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Drop every line of epoch ``epochs`` and later, and a half-written last line: what a resumed run writes anew.

    extra: lines that then follow. Returns the lines that the file holds now.
    """
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            break
        if value["epoch"] < epochs:
            kept.append(value)
    kept += extra or []
    if path.exists() or kept:
        write_atomically(path, "".join(json.dumps(finite(value), allow_nan=False) + "\n" for value in kept))
    return kept


def write_assignments(study: Path, assignments: list[Assignment]) -> None:
    """Write ``assignments.jsonl`` into the study's folder."""
    lines = [json.dumps(asdict(item)) + "\n" for item in assignments]
    write_atomically(Path(study) / "assignments.jsonl", "".join(lines))


def read_assignments(study: Path) -> list[Assignment]:
    """Read ``assignments.jsonl`` in the study's folder; nothing where there is none."""
    return [Assignment(**line) for line in read_lines(Path(study) / "assignments.jsonl")]
