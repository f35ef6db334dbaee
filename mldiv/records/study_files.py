"""Read and write the files of a study's folder, as `contents` says what they hold.

Only the standard library is used here: the analysis reads these files without torch, ray or optuna.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mldiv.environment.terminal import first_few
from mldiv.records import checked_files, contents
from mldiv.records.checked_files import Damaged, RecordError, check_fields, finite, read_json, read_lines, write_atomically
from mldiv.records.contents import Assignment, StudyRecord, TrialRecord, TrialTask, parse_record, trial_id

#: What to do about a damaged file.
MEND = {
    "study.json": "remove it and run the study's command again, which writes it anew and keeps every trial",
    "trial.json": "run the study's command again, which sets it aside and goes on with this trial from its checkpoint",
}

#: Folders named in a message.
MOST_NAMED = 10


def trial_folder(study: Path, trial: str) -> Path:
    """Return the trial's folder in a study's."""
    return Path(study) / "trials" / trial


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object as JSON, whole or not at all."""
    write_atomically(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def write_study(folder: Path, record: StudyRecord) -> None:
    """Write ``study.json``; what is not known yet, or what most studies have not, is left out."""
    later: dict[str, Any] = {"chosen": None, "importance": None, "fingerprint": None, "drawn": [], "looks": [], "grown": []}
    later |= {"plugins": {}, "plugin_files": {}, "kernel_defaults": {}, "trends": {}, "level": contents.LEVEL}
    write_json(folder / "study.json", {name: value for name, value in asdict(record).items()
                                       if name not in later or value != later[name]})  # fmt: skip


def read_study(folder: Path) -> StudyRecord:
    """Read the study in ``folder``.

    Raises: RecordError, naming the file and what to do, when it is missing, damaged or of another schema version.
    """
    path, mend = folder / "study.json", f"; {MEND['study.json']}"
    if not path.exists():
        raise RecordError(f"{path}: no such file{_instead(folder)}")
    value = read_json(path, mend)
    _check_schema(value, path)
    return parse_record(StudyRecord, value, str(path), mend)


def _instead(folder: Path) -> str:
    """Say what there is in place of a study's records: a compact copy of them, or folders that have them."""
    if (folder / contents.ARCHIVE).exists():
        return f"; it is a compact copy: python -m analysis {folder} --unpack FOLDER makes a study's folder of it"
    found = sorted({path.parent.name for name in ("study.json", contents.ARCHIVE) for path in folder.glob(f"*/{name}")})
    return f"; studies are in its folders {first_few(found, MOST_NAMED)}: name them" if found else ""


def write_trial(folder: Path, record: TrialRecord) -> None:
    """Write ``trial.json``, with a checksum of all that it says."""
    value = finite(asdict(record))
    write_json(folder / "trial.json", value | {"checksum": trial_id(value)})


def read_trial(folder: Path) -> TrialRecord:
    """Read the trial in ``folder``. Records of mldiv 0.5.0 have no checksum, nor the field ``left_out``.

    Raises: RecordError when it is missing, cannot be read or is of another schema version; Damaged when it does not fit its
    checksum, holds unknown fields or states, or is another trial's.
    """
    path, mend = folder / "trial.json", f"; {MEND['trial.json']}"
    value = read_json(path, mend)
    checksum = value.pop("checksum", None)
    if checksum is None and "left_out" in value:
        raise Damaged(f"{path}: its checksum is missing{mend}")
    if checksum is not None and checksum != trial_id(value):
        raise Damaged(f"{path}: its checksum does not fit its content{mend}")
    _check_schema(value, path)
    record = parse_record(TrialRecord, value, str(path), mend)
    if why := _contradiction(record, folder.name):
        raise Damaged(f"{path}: {why}{mend}")
    record.cost = dict.fromkeys(contents.COSTS, 0) | record.cost
    return record


def _check_schema(value: dict[str, Any], path: Path) -> None:
    if (schema := value.get("schema")) != contents.SCHEMA:
        raise RecordError(
            f"{path}: schema version {schema!r:.80}, this mldiv reads {contents.SCHEMA}; take the version that wrote it, or "
            "train anew in another folder"
        )


def _contradiction(record: TrialRecord, folder: str) -> str | None:
    """Say why a record cannot be that of the trial in a folder of this name; None where it can."""
    if record.id != folder and contents.IDENTITY.fullmatch(folder):
        return f"the record of another trial, {record.id!r:.80}"
    if record.status not in contents.STATUSES:
        return f"unknown status {record.status!r:.80}, expected one of {', '.join(sorted(contents.STATUSES))}"
    if not record.final or not contents.IDENTITY.fullmatch(record.id):
        return None
    known = {name: value for name, value in record.config.items() if name not in record.left_out}
    return None if not record.left_out or trial_id(known) == record.id else "its config is another trial's"


def failed_trial(folder: Path, task: TrialTask, reason: str) -> TrialRecord:
    """Return the trial's record as it stands in ``folder``, or a new one where it cannot be read, marked as failed."""
    try:
        record = read_trial(folder)
    except RecordError:
        record = TrialRecord(task.trial, task.config)
    record.status, record.reason = "failed", reason
    return record


def find_trial(study: Path, trial: str) -> TrialRecord | None:
    """Read the record of ``trial`` in a study folder; None when it has none yet, or a damaged one, which is trained again."""
    folder = trial_folder(study, trial)
    with suppress(Damaged):
        return read_trial(folder) if os.path.lexists(folder / "trial.json") else None
    return None


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line and push it to the disk.

    Raises: OSError; for a link at ``path`` too, which may lead anywhere.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with checked_files.named(path), open(opened, "a", encoding="utf-8") as file:
        file.write(json.dumps(finite(value), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def epoch_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a ``metrics.jsonl``, one for each epoch from the first on; none when there is no file.

    Raises: Damaged, naming file and line, at one that is cut, of wrong types, or of another epoch.
    """
    for number, line in enumerate(read_lines(path)):
        check_line(line, number, f"{path}, line {number + 1}")
        yield line


def check_line(line: Any, epoch: int, where: str) -> None:
    """Look at a line of ``metrics.jsonl``. Raises: Damaged, naming ``where``, for one that is not the line of this epoch."""
    check_fields(line if isinstance(line, dict) else {}, contents.LINE, where, needed=contents.LINE.keys() - contents.SOMETIMES)
    if line["epoch"] != epoch or line["stage"] not in (1, 2):
        raise Damaged(f"{where}: epoch {line['epoch']}, stage {line['stage']}, where epoch {epoch} was expected")
    if any(isinstance(part, dict) is (name == "at") for point in line.get("gradients", []) for name, part in point.items()):
        raise Damaged(f"{where}: gradients that cannot be")


def keep_epochs(path: Path, epochs: int, extra: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Drop every line of epoch ``epochs`` and later, and all from a half-written one on: what a resumed run writes anew.

    extra: lines that then follow. Returns the lines that the file holds now.
    """
    kept = []
    with suppress(Damaged):
        for line in read_lines(path):
            if isinstance(epoch := line.get("epoch"), int) and epoch < epochs:
                kept.append(line)
    kept += extra or []
    if os.path.lexists(path) or kept:
        write_atomically(path, "".join(json.dumps(finite(value), allow_nan=False) + "\n" for value in kept))
    return kept


def write_assignments(study: Path, assignments: list[Assignment]) -> None:
    """Write ``assignments.jsonl`` into the study's folder."""
    lines = [json.dumps(asdict(item)) + "\n" for item in assignments]
    write_atomically(Path(study) / "assignments.jsonl", "".join(lines))


def read_assignments(study: Path, problems: list[str] | None = None) -> list[Assignment]:
    """Read ``assignments.jsonl`` in the study's folder; nothing where there is none.

    problems: takes what is wrong with lines, which are then left out.

    Raises: RecordError; Damaged for a wrong line where ``problems`` is not given.
    """
    kinds = {item.name: item.type for item in fields(Assignment)}

    def check(line: dict[str, Any], where: str) -> None:
        check_fields(line, kinds, where)
        if line["phase"] not in contents.PHASES:
            raise Damaged(f"{where}: phase = {line['phase']!r:.80}: expected one of {', '.join(contents.PHASES)}")
        if not contents.FOLDER_NAME.fullmatch(line["trial"]):
            raise Damaged(f"{where}: trial = {line['trial']!r:.80}: expected the name of a folder in trials")

    return [Assignment(**line) for line in read_lines(Path(study) / "assignments.jsonl", problems, check)]
