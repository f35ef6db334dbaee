"""Read a trial's predictions of the test images, and hold its scores against them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from analysis.stats.calibration import reliability
from mldiv.records.checked_files import Damaged, RecordError, read_bytes
from mldiv.records.contents import PAIR, TrialRecord

#: Of a file of predictions, and of what it unpacks to.
MOST_BYTES, MOST_ROWS = 2**31, 10**8
#: Stands for a class that is not the label, where a compact copy does not say which.
OTHER = np.iinfo(np.int16).max
#: What rounding may change in a mean over images, relative to its size or 1.
ROUNDING = 1e-5


#: Columns that a compact copy may lack.
SPARED_BY_COPIES = ("scaled_confidence", "entropy", "mutual_information")


@dataclass(frozen=True, eq=False)
class Predictions:
    """One member's predictions of the test images, each [images], in their order.

    label, predicted: class indices; confidence: the probability of the predicted class; scaled_*: after temperature scaling,
    None under other labels than the study's, NaN where no temperature was fitted; entropy, mutual_information: in nats. Of a
    soft label, ``label`` is its largest class and ``label_probability`` the number whose logarithm is the mean of the
    classes' logarithms by their shares. Of a compact copy (`analysis.compact`) the last three are None, and ``predicted`` is
    OTHER where it is not the label.
    """

    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    label_probability: np.ndarray
    scaled_confidence: np.ndarray | None = None
    entropy: np.ndarray | None = None
    mutual_information: np.ndarray | None = None

    @property
    def correct(self) -> np.ndarray:
        """Whether the predicted class is the label, [images]."""
        return self.predicted == self.label

    @property
    def nll(self) -> np.ndarray:
        """Negative log-likelihood of the label, [images], in nats."""
        return -np.log(np.maximum(self.label_probability.astype(float), np.finfo(np.float32).tiny))


#: By member: peer_1, peer_2, ..., pair.
Members = dict[str, Predictions]


class Unreadable(RecordError):
    """Predictions that say nothing, for or against the trial's scores."""


def read(path: Path, record: TrialRecord) -> Members:
    """Return the predictions of a finished trial.

    Raises: Unreadable, in a few words; Damaged when they are another trial's, or contradict the trial's scores.
    """
    try:
        said, table = _table(path)
        found = _members(table)
    except (OSError, KeyError, ValueError, MemoryError, pyarrow.ArrowException) as error:
        why = str(error).removeprefix(f"{path}: ") if isinstance(error, RecordError) else type(error).__name__
        raise Unreadable(f"cannot be read ({why})") from None
    compact = said.get("compact") is True
    if (owner := said.get("trial")) not in (None, record.id):
        raise Damaged(f"holds the predictions of another trial, {owner!r:.40}")
    if (why_not := _contradiction(found, record, compact)) is not None:
        raise Damaged(why_not)
    if not compact and not {PAIR, "peer_1"} <= found.keys():
        raise Unreadable("cannot be read (there are none of the pair, or of a peer)")
    return found


def _table(path: Path) -> tuple[dict[str, Any], pyarrow.Table]:
    """Return what a file says of itself, and its table.

    trial: whose predictions it holds (not there as of mldiv 0.5.0); compact: it is part of a compact copy.
    """
    data = read_bytes(path, MOST_BYTES)
    with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data), page_checksum_verification=True) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > MOST_BYTES or file.metadata.num_rows > MOST_ROWS:
            raise Damaged(f"it unpacks to {file.metadata.num_rows:,} rows of more than {MOST_BYTES:,} bytes")
        said = json.loads((file.schema_arrow.metadata or {}).get(b"PANDAS_ATTRS", b"{}"))
        compact = isinstance(said, dict) and said.get("compact") is True
        spared = set(SPARED_BY_COPIES) - set(file.schema_arrow.names) if compact else set()
        names = ["member", *(name for name in Predictions.__dataclass_fields__ if name not in spared)]
        table = file.read(columns=names, use_threads=False).select(names)  # a KeyError for one that is missing
    return said if isinstance(said, dict) else {"trial": said}, table


def _members(table: pyarrow.Table) -> Members:
    """Split a table by member. Raises: Damaged for values that no predictions have."""
    column = table.column("member").combine_chunks()
    encoded = column if isinstance(column, pyarrow.DictionaryArray) else column.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    if encoded.null_count or not all(isinstance(name, str) for name in names):
        raise Damaged("member names no networks")
    member = encoded.indices.to_numpy()
    columns = {name: table.column(name).to_numpy() for name in table.column_names if name != "member"}
    for name, column in columns.items():
        unfitted = name == "scaled_confidence" and column.dtype.kind == "f" and np.isnan(column).all()
        if not unfitted and (
            column.dtype.kind not in ("iu" if name in ("label", "predicted") else "iuf")
            or not np.isfinite(column).all()
            or not (column > -ROUNDING).all()
        ):
            raise Damaged(f"{name} holds what is no number, not finite, or negative")
        if name.endswith(("confidence", "probability")) and (column >= 1 + ROUNDING).any():
            raise Damaged(f"{name} exceeds 1")
    rows = {name: np.flatnonzero(member == code) for code, name in enumerate(names)}
    there = sorted((name for name, own in rows.items() if len(own)), key=lambda name: rows[name][0])
    return {name: Predictions(**{key: column[rows[name]] for key, column in columns.items()}) for name in there}


def _contradiction(found: Members, record: TrialRecord, compact: bool) -> str | None:
    """Say where a trial's scores are not those of its predictions; None where they are, or nothing is known.

    compact: members may be missing.
    """
    images = record.data.get("test")
    if images is None:
        return None
    missing = set(record.test) - set(found) if not compact else ()
    if missing or set(found) - set(record.test) or any(len(member.label) != images for member in found.values()):
        return f"holds no predictions of {images} images by each of {', '.join(record.test)}"
    labels = [member.label for member in found.values()]
    if any((label != labels[0]).any() for label in labels):
        return "holds unlike labels of the same images"
    for name, member in found.items():
        for metric, value, rounding in _scores(member):
            said = record.test[name].get(metric, value)
            if said is None or abs(said - value) > rounding * max(1.0, abs(value)):
                return f"gives {metric} {value:.6g} of {name}, where trial.json says {said}"
    return None


def _scores(member: Predictions) -> list[tuple[str, float, float]]:
    """Compute what predictions tell of a trial's scores: name, value, and what rounding may change in it.

    An image on the edge of two bins may fall into either.
    """
    edge = 2 / len(member.label)
    of_images = {name: getattr(member, name) for name in ("entropy", "mutual_information")}
    return [
        ("accuracy", float(member.correct.mean()), ROUNDING),
        ("nll", float(member.nll.mean()), ROUNDING),
        ("ece", reliability(member.confidence, member.correct).ece, ROUNDING + edge),
        *((name, float(values.mean(dtype=float)), ROUNDING) for name, values in of_images.items() if values is not None),
    ]
