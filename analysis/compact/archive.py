"""Pack files into an archive and read it again: bounded, the same bytes for the same files, no other names than asked for."""

import io
import lzma
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

from mldiv.records.checked_files import MOST_BYTES, Damaged, read_bytes

#: A byte is coded by the leading four bits of the one before it: with planes, the same image's in another trial.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 4, "lp": 0, "pb": 0}]


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of files, the same one for the same files."""
    file = io.BytesIO()
    with lzma.open(file, "wb", filters=FILTERS) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name in sorted(files):
            (entry := tarfile.TarInfo(name)).size = len(files[name])
            archive.addfile(entry, io.BytesIO(files[name]))
    return file.getvalue()


def unpacked(path: Path, names: re.Pattern[str]) -> dict[str, bytes]:
    """Return the files in an archive by name; names: what it may hold.

    Raises: Damaged, naming the archive, for one that is cut, unpacks to more than MOST_BYTES or holds anything else; OSError.
    """
    try:
        stream = lzma.LZMADecompressor(memlimit=MOST_BYTES)
        data = stream.decompress(read_bytes(path), max_length=MOST_BYTES)
        if not stream.eof:
            raise Damaged(f"{path}: is cut, or unpacks to more than {MOST_BYTES:,} bytes")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            return {entry.name: _content(archive, entry, path, names) for entry in archive}
    except (lzma.LZMAError, tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(f"{path}: cannot be unpacked ({error!s:.80})") from None


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path, names: re.Pattern[str]) -> bytes:
    file = archive.extractfile(entry) if entry.isreg() and not entry.issparse() and names.fullmatch(entry.name) else None
    if file is None:
        raise Damaged(f"{path}: holds {entry.name!r:.80}, which does not belong there")
    return file.read()
