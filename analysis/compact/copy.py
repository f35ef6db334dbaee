"""Publish a study in one small file: its settings and scores whole, its epochs and predictions as far as they fit.

``records.tar.xz`` holds study.json, assignments.jsonl and scaling.jsonl; of each trial trial.json, and of metrics.jsonl what
tables and figures read; predictions as `analysis.compact.planes` rounds them; and copy.json, which says what was left out. That
is what is needed least, until the file is small enough: entropy, mutual information and scaled confidence of single images
always (their scores are in trial.json); then bits of confidence and NLL; then the predictions of members that no arm is judged
by; then all predictions, those of soft labels always. `load` reads a folder with such a file as one with the records
"""

import io
import json
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from analysis.compact.archive import packed, unpacked
from analysis.compact.planes import LEAST_BITS, MOST_BITS, restored, rounded, soft
from analysis.records import load as records
from analysis.records.load import CURVES, GRADIENTS, StudyData
from analysis.records.predictions import Members
from mldiv.records.checked_files import Damaged, RecordError, check_fields, parse, write_atomically
from mldiv.records.contents import ARCHIVE, FOLDER_NAME, scored_by, trial_id, without_places
from mldiv.records.study_files import epoch_lines, trial_folder

MANIFEST = "copy.json"
#: What a compact copy takes at most, unless asked otherwise.
LIMIT_BYTES = 2_000_000
#: Digits of a number in metrics.jsonl: those of a float32.
DIGITS = 9

#: What an archive may hold.
NAMES = re.compile(
    rf"{MANIFEST}|study\.json|assignments\.jsonl|scaling\.jsonl|trials/{FOLDER_NAME.pattern}/(trial\.json|metrics\.jsonl)"
    r"|predictions/(label|\w+/\w+)\.npy"
)  # fmt: skip
STUDY_FILES = ("study.json", "assignments.jsonl", "scaling.jsonl")
#: What copy.json says: in words; bits of predictions; by member, the trials whose predictions are there.
COPY = {"words": str, "bits": int, "members": dict[str, list[str]]}


def compact(folder: Path, out: Path) -> str:
    """Write a compact copy of the study in ``folder`` into ``out``; return what it holds and its size, in words.

    Raises: RecordError where the study cannot be read, or not whole, or does not fit; OSError.
    """
    study = records.load(folder)
    found = _predictions(study)
    files = {name: _public(folder / name) for name in STUDY_FILES if (folder / name).exists()}
    trials = [*study.records.values(), *(record for _, record in study.searched)]
    for trial in dict.fromkeys(record.id for record in trials):
        files |= _of_trial(folder, trial)
    if study.problems:
        raise RecordError(f"{folder}: a compact copy is made of whole records, and {study.problems[0]}")
    for bits, members in _ladder(study, found):
        words = _words(bits, members, found)
        data = packed(files | _planes(found, bits, members, words))
        if len(data) <= LIMIT_BYTES:
            write_atomically(out / ARCHIVE, data)
            return f"{out / ARCHIVE}: {len(data):,} bytes. {words}"
    raise RecordError(f"{folder}: settings, scores and epochs alone take {len(data):,} bytes, more than {LIMIT_BYTES:,}")


def load(folder: Path) -> StudyData:
    """Read the study in a folder, from its compact copy where there is nothing else (unpacked until the study is forgotten).

    Raises: RecordError as `analysis.records.load.load`, and for a copy that cannot be read.
    """
    path = folder / ARCHIVE
    if (folder / "study.json").exists() or not path.exists():
        return records.load(folder)
    place = Path(tempfile.mkdtemp(prefix="mldiv-"))
    whole = place / folder.resolve().name
    try:
        words = unpack(path, whole)
        study = records.load(whole)
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, RecordError):
            raise type(error)(str(error).replace(f"{whole}/", f"{path}, ")) from None
        raise
    weakref.finalize(study, shutil.rmtree, place, True)
    study.copy = words
    return study


def unpack(path: Path, folder: Path) -> str:
    """Write the records that a compact copy holds into ``folder``, as a study has them; return what was left out, in words.

    Raises: Damaged, naming the copy, for one that is cut, unpacks to more than MOST_BYTES or holds files of other names;
    RecordError, OSError.
    """
    files = unpacked(path, NAMES)
    manifest = parse(files.pop(MANIFEST, b""), f"{path}, {MANIFEST}")
    check_fields(manifest, COPY, f"{path}, {MANIFEST}")
    try:
        found = _restored(files, manifest)
    except (Damaged, KeyError, ValueError, MemoryError) as error:
        raise Damaged(f"{path}: predictions that cannot be read ({error!s:.80})") from None
    for name, data in files.items():
        if name.endswith((".json", ".jsonl")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    for trial in (path.parent for path in folder.glob("trials/*/trial.json")):
        _write_predictions(trial / "predictions.parquet", trial.name, found.get(trial.name, {}))
    return manifest["words"]


def _predictions(study: StudyData) -> dict[str, Members]:
    """Return by trial what the finished repeats predict, where it is of the same images as the first one's."""
    found: dict[str, Members] = {}
    for (arm, seed), record in study.records.items():
        if record.status == "finished":
            members = {name: study.predictions(arm, seed, name) for name in record.test}
            found[record.id] = {name: of[0] for name, of in members.items() if of}
    labels = [member.label for members in found.values() for member in members.values()]
    return {trial: of for trial, of in found.items() if all(np.array_equal(member.label, labels[0]) for member in of.values())}


def _ladder(study: StudyData, found: Mapping[str, Members]) -> Iterator[tuple[int, list[str]]]:
    """Yield bits, and the members whose predictions are kept, from what would be best to what is smallest."""
    every = [] if _soft(found) else list(dict.fromkeys(name for of in found.values() for name in of))
    judged = {name for arm in study.arms for name in scored_by(study.member(arm), every)}
    for members in dict.fromkeys((tuple(every), tuple(name for name in every if name in judged))) if every else []:
        for bits in range(MOST_BITS, LEAST_BITS - 1, -1):
            yield bits, list(members)
    yield LEAST_BITS, []


def _words(bits: int, members: list[str], found: Mapping[str, Members]) -> str:
    left = ", ".join(sorted({name for of in found.values() for name in of} - set(members)))
    kept = (
        f"predictions of each image to {bits} bits, scores and the mean confidence of each bin exactly" if members else "scores"
    )
    words = (
        f"Read from a compact copy, which holds {kept}, and not the entropy, mutual information and scaled confidence of images"
    )
    what = f"predictions of {'soft labels by ' * _soft(found)}{left}"
    return f"{words}{f', nor any {what}, whose intervals hold over seeds alone' if left else ''}."


def _soft(found: Mapping[str, Members]) -> bool:
    return any(soft(member) for of in found.values() for member in of.values())


def _public(path: Path) -> bytes:
    """Return a file of records without the places of data, weights and plug-ins on the machine that wrote it."""
    if path.suffix != ".json":
        return path.read_bytes()
    value = json.loads(path.read_bytes())
    value |= {name: without_places(value[name]) for name in ("settings", "config") if name in value}
    if "plugin_files" in value:
        value["plugin_files"] = {name: Path(file).name for name, file in value["plugin_files"].items()}
    if value.pop("checksum", None) is not None:
        value["checksum"] = trial_id(value)
    return json.dumps(value, indent=1).encode() + b"\n"


def _of_trial(folder: Path, trial: str) -> dict[str, bytes]:
    path = trial_folder(folder, trial)
    lines = "".join(json.dumps(_short(_read_lines(line))) + "\n" for line in epoch_lines(path / "metrics.jsonl"))
    return {f"trials/{trial}/trial.json": _public(path / "trial.json"), f"trials/{trial}/metrics.jsonl": lines.encode()}


def _read_lines(line: dict[str, Any]) -> dict[str, Any]:
    """Return what is read of an epoch's line: `CURVES`, the peers' NLL and accuracy, gradients in the means."""
    read = {group: {path[1] for path in CURVES.values() if path[0] == group} for group in ("train", "diversity")}
    kept = line | {group: {name: of for name, of in line[group].items() if name in names} for group, names in read.items()}
    kept["validation"] = {
        name: {key: of[key] for key in of if key in ("nll", "accuracy")} for name, of in line["validation"].items()
    }
    kept["gradients"] = [
        {name: {key: of[key] for key in of if key.startswith("mean_")} if isinstance(of, dict) else of
         for name, of in point.items() if name in ("at", *GRADIENTS)} for point in line.get("gradients") or []
    ]  # fmt: skip
    return kept


def _short(value: dict[str, Any]) -> dict[str, Any]:
    """Round every number in an object to DIGITS."""
    return json.loads(json.dumps(value), parse_float=lambda number: float(f"{float(number):.{DIGITS}g}"))


def _planes(found: Mapping[str, Members], bits: int, members: list[str], words: str) -> dict[str, bytes]:
    trials = {name: [trial for trial, of in found.items() if name in of] for name in members}
    files = {MANIFEST: json.dumps({"words": words, "bits": bits, "members": trials}, indent=1).encode() + b"\n"}
    for name, of_member in trials.items():
        several = [found[trial][name] for trial in of_member]
        files["predictions/label.npy"] = _npy(several[0].label)
        files |= {f"predictions/{name}/{plane}.npy": _npy(values) for plane, values in rounded(several, bits).items()}
    return files


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def _restored(files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> dict[str, Members]:
    """Return by trial and member the predictions in an archive."""
    if not LEAST_BITS <= manifest["bits"] <= MOST_BITS:
        raise Damaged(f"bits = {manifest['bits']}")
    arrays = {
        name.removeprefix("predictions/").removesuffix(".npy"): np.load(io.BytesIO(data), allow_pickle=False)
        for name, data in files.items() if name.endswith(".npy")
    }  # fmt: skip
    found: dict[str, Members] = {}
    for name, trials in manifest["members"].items():
        planes = {key.partition("/")[2]: values for key, values in arrays.items() if key.startswith(f"{name}/")}
        for trial, member in zip(trials, restored(planes, arrays["label"], manifest["bits"]), strict=True):
            found.setdefault(trial, {})[name] = member
    return found


def _write_predictions(path: Path, trial: str, members: Members) -> None:
    """Write a trial's predictions as training does, with a mark that others were left out."""
    kinds = {"label": np.int16, "predicted": np.int16, "confidence": np.float32, "label_probability": np.float32}
    columns = {
        key: np.concatenate([np.zeros(0, kind), *(getattr(of, key).astype(kind) for of in members.values())])
        for key, kind in kinds.items()
    }
    lengths = [len(of.label) for of in members.values()]
    member = pyarrow.DictionaryArray.from_arrays(
        np.repeat(np.arange(len(members), dtype=np.int8), lengths), pyarrow.array(list(members), pyarrow.string())
    )
    table = pyarrow.table({"member": member, **columns})
    mark = json.dumps({"trial": trial, "compact": True})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"PANDAS_ATTRS": mark}), path, compression="none")
