"""Keep every class's probability of a trial's test predictions, so that other labels or a new metric need no training.

They are kept as logarithms in float16, each within 0.05 % of itself; of the probabilities themselves float16 would turn all
below 3e-8 into 0, and the NLL of an image whose label is among them into infinity.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Float

from mldiv.records.checked_files import Damaged, read_bytes, write_atomically

#: Of a trial's folder; a row per image and member (peer_1, peer_2, ..., pair), in the order of the test images.
FILE = "probabilities.parquet"
COLUMN = "log_probabilities"
#: Of a file, and of what it unpacks to.
MOST_BYTES = 2**32

#: By member; natural logarithms.
FullPredictions = Mapping[str, Float[np.ndarray, "images classes"]]


def write(path: Path, predictions: FullPredictions, trial: str) -> None:
    """Write the file, whole or not at all; it says whose it is.

    Probabilities that are 0 in float32 count as its smallest normal number.
    """
    least = np.log(np.finfo(np.float32).tiny)
    values = np.concatenate([own.clip(least, 0) for own in predictions.values()]).astype(np.float16)
    members = np.repeat(np.array(list(predictions)), [len(own) for own in predictions.values()])
    table = pyarrow.table(
        {
            "member": pyarrow.array(members).dictionary_encode(),
            COLUMN: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), values.shape[1]),
        }
    ).replace_schema_metadata({"trial": trial})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(
        table, buffer, compression="zstd", use_dictionary=["member"], write_page_checksum=True,
        column_encoding={f"{COLUMN}.list.element": "BYTE_STREAM_SPLIT"},
    )  # fmt: skip
    write_atomically(path, buffer.getvalue())


def read(path: Path, trial: str) -> FullPredictions:
    """Read a trial's file, as float64.

    Raises: FileNotFoundError; Damaged, naming the file, where it cannot be read, is another trial's, or holds no logarithms of
    probabilities.
    """
    try:
        owner, members, values = _table(read_bytes(path, MOST_BYTES))
    except (KeyError, ValueError, MemoryError, pyarrow.ArrowException) as error:
        why = str(error).removeprefix(f"{path}: ") if isinstance(error, Damaged) else type(error).__name__
        raise Damaged(f"{path}: cannot be read ({why})") from None
    if owner != trial:
        raise Damaged(f"{path}: holds the predictions of another trial, {owner!r:.40}")
    if not np.isfinite(values).all() or not np.allclose(np.exp(values).sum(1), 1, atol=0.01):
        raise Damaged(f"{path}: holds no probabilities that add up to 1")
    return {str(name): values[members == name] for name in dict.fromkeys(members.tolist())}


def _table(data: bytes) -> tuple[str, np.ndarray, np.ndarray]:
    """Return whose a file's predictions are, their members [rows], and the values [rows, classes]."""
    with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data), page_checksum_verification=True) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > MOST_BYTES:
            raise Damaged(f"it unpacks to more than {MOST_BYTES:,} bytes")
        owner = (file.schema_arrow.metadata or {}).get(b"trial", b"").decode()
        table = file.read(columns=["member", COLUMN], use_threads=False)
    column = table.column(COLUMN).combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).astype(float)
    return owner, np.asarray(table.column("member").to_pylist()), values.reshape(len(column), -1)
