"""Check that a data set's files are there, whole, and those that were published under their names."""

import hashlib
from pathlib import Path


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
    """Compare a file's size in bytes and its md5 with the published ones, where they are given.

    Raises: DataError when it is missing or another.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; {hint}")
    if size is not None and path.stat().st_size != size:
        raise DataError(
            f"{path}: {path.stat().st_size:,} bytes where {size:,} were expected, truncated or not this data; {hint}"
        )
    if md5 is not None and (found := _md5(path)) != md5:
        raise DataError(f"{path}: its md5 is {found}, expected {md5}: damaged or not this data; {hint}")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
