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
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

SCHEMA = 3

ROOT = Path(__file__).resolve().parent.parent

#: A trial in one of these states is never trained again. ``failed`` is: its cause may be gone.
FINAL = frozenset({"finished", "stopped", "diverged"})
STATUSES = FINAL | {"running", "failed"}

#: What a trial cost: epochs that it trained itself, that it took from the store, and of pretraining that it trained.
COSTS = ("epochs_trained", "epochs_shared", "pretraining_epochs_trained")

MEMBERS = ("peer_1", "peer_2", "pair")

#: Which predictions an arm is judged by: those of both peers together, or each peer's own (a score is then their mean).
JUDGED: dict[str, tuple[str, ...]] = {"pair": ("pair",), "peers": ("peer_1", "peer_2")}


class RecordError(ValueError):
    """A record that cannot be read; the message names the file and what is wrong with it."""


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
    data: dict[str, Any] = field(default_factory=dict)
    #: Both distances between the peers, raw, when stage two began.
    switch: dict[str, float] = field(default_factory=dict)
    cost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COSTS, 0))
    notes: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def final(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True)
class Assignment:
    """A line of ``assignments.jsonl``: ``trial`` answers for ``arm`` in ``phase`` ("search" or "repeat") with ``seed``."""

    arm: str
    phase: str
    seed: int
    trial: str


def study_header(
    *, name: str, question: str, scientific: str, preset: str, baseline: str, changes: dict[str, dict[str, Any]],
    seeds: list[int], settings: dict[str, Any], data: str, environment: dict[str, Any], **further: Any,
) -> dict[str, Any]:  # fmt: skip
    """``study.json``, without a search unless ``further`` describes one. changes: by arm; settings: the base configuration."""
    arms = list(changes)
    plain = {
        "compare": [arm for arm in arms if arm != baseline],
        "contrasts": {},
        "members": {},
        "samples": 0,
        "search_seeds": [],
        "searched": {arm: [] for arm in arms},
        "batch": 1,
        "selection": "none",
        "objectives": [],
        "early_stopping": None,
        "surface": None,
        "data_is_subset": bool(settings.get("train_size") or settings.get("test_size")),
        "world_size": 1,
    }
    given = {
        "schema": SCHEMA,
        "name": name,
        "question": question,
        "scientific": scientific,
        "preset": preset,
        "baseline": baseline,
        "arms": arms,
        "changes": changes,
        "seeds": seeds,
        "settings": settings,
        "data": data,
        "environment": environment,
    }
    return plain | given | further


def commit() -> str:
    """The checkout's short commit, with a note when it has uncommitted changes; "unknown" outside of git."""
    with suppress(OSError, subprocess.CalledProcessError):
        ask = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        name = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True)
        return name + (" (with uncommitted changes)" if changed.stdout.strip() else "")
    return "unknown"


def trial_id(config: dict[str, Any], without: frozenset[str] = frozenset()) -> str:
    """The first 16 hex digits of SHA-256 over the configuration's canonical JSON, the keys in ``without`` left out."""
    kept = {key: value for key, value in config.items() if key not in without}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def trial_folder(study: Path, trial: str) -> Path:
    return Path(study) / "trials" / trial


def finite(value: Any) -> Any:
    """``value`` with every non-finite number replaced by None (JSON has no NaN), in nested dicts and lists too."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader, or a crash, sees the old file or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises: RecordError, naming the file, when it is missing, truncated or not an object.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise RecordError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_trial(folder: Path, record: TrialRecord) -> None:
    write_json(folder / "trial.json", asdict(record))


def read_trial(folder: Path) -> TrialRecord:
    """The record in ``folder``.

    Raises: RecordError when it is missing or damaged, of another schema version, or holds unknown fields or states.
    """
    path = folder / "trial.json"
    value = read_json(path)
    if value.get("schema") != SCHEMA:
        raise RecordError(f"{path}: schema version {value.get('schema')!r}, this mldiv reads {SCHEMA}")
    known = {item.name for item in fields(TrialRecord)}
    if unknown := sorted(set(value) - known):
        raise RecordError(f"{path}: unknown fields {', '.join(unknown)}")
    if missing := sorted({"id", "config", "status"} - set(value)):
        raise RecordError(f"{path}: fields {', '.join(missing)} are missing")
    record = TrialRecord(**value)
    if record.status not in STATUSES:
        raise RecordError(f"{path}: unknown status {record.status!r}, expected one of {', '.join(sorted(STATUSES))}")
    return record


def find_trial(study: Path, trial: str) -> TrialRecord | None:
    """The record of ``trial`` in a study folder, or None when it has none yet."""
    folder = trial_folder(study, trial)
    return read_trial(folder) if (folder / "trial.json").exists() else None


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line and push it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(finite(value), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; none when there is no file.

    Raises: RecordError, naming file and line, at a line that is not valid JSON (a truncated write, say).
    """
    if not path.exists():
        return
    with path.open() as file:
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
    for line in path.read_text().splitlines() if path.exists() else []:
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
    lines = [json.dumps(asdict(item)) + "\n" for item in assignments]
    write_atomically(Path(study) / "assignments.jsonl", "".join(lines))


def read_assignments(study: Path) -> list[Assignment]:
    return [Assignment(**line) for line in read_lines(Path(study) / "assignments.jsonl")]
