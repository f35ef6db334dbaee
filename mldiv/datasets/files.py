"""Check that a data set's files are there, whole, and those that were published under their names."""

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

#: How the name of a file packed by gzip ends.
PACKED = ".gz"


class DataError(ValueError):
    """Data that is missing or damaged; the message says which file, what was expected and how to get it."""


def existing_folder(root: Path | None, hint: str) -> Path:
    """Return the data's folder.

    hint: what it should hold.

    Raises: DataError when none is named, or it is no folder.
    """
    if root is None:
        raise DataError(f"--data-root is missing: {hint}")
    if not root.exists():
        raise DataError(f"{root}: no such folder; {hint}")
    if not root.is_dir():
        raise DataError(f"{root}: a file, where a folder was expected; {hint}")
    return root


def check_file(path: Path, size: int | None, md5: str | None, hint: str) -> None:
    """Compare a file's size in bytes and its md5, unpacked, with the published ones, where they are given.

    Raises: DataError when it is missing or another.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; {hint}")
    there = len(contents(path)) if path.suffix == PACKED else path.stat().st_size
    if size is not None and there != size:
        raise DataError(f"{path}: {there:,} bytes where {size:,} were expected, truncated or not this data; {hint}")
    if md5 is not None and (found := _md5(path)) != md5:
        raise DataError(f"{path}: its md5 is {found}, expected {md5}: damaged or not this data; {hint}")


def packed_or_not(path: Path, hint: str) -> Path:
    """Return the file, or the one packed by gzip beside it. Raises: DataError where there is neither."""
    found = next((file for file in (path, path.with_name(path.name + PACKED)) if file.is_file()), None)
    if found is None:
        raise DataError(f"{path}: no such file, nor one with {PACKED}; {hint}")
    return found


def contents(path: Path) -> bytes:
    """Return a file's bytes, unpacked where it is packed by gzip. Raises: DataError where it cannot be read."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == PACKED else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}): cut short, or not what its name says; fetch it again") from None


def content_hash(path: Path) -> str:
    """Return the first 16 hex digits of SHA-256 over a file. Raises: DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def check_hash(path: Path, expected: str) -> None:
    """Raise DataError where a file's contents are not those that a trial's identity names."""
    if (found := content_hash(path)) != expected:
        raise DataError(f"{path}: its contents have changed (hash {found}, the trial's is {expected}): put back the old ones")


def say_taken(what: str, unused: Sequence[str]) -> str:
    """Say where the test images are from, and what lies beside it unused."""
    return f"test images from {what}" + (f", {' and '.join(unused)} not used" if unused else "")


def _md5(path: Path) -> str:
    if path.suffix == PACKED:
        return hashlib.md5(contents(path), usedforsecurity=False).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
