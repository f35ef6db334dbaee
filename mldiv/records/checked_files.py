"""Read and write JSON files, and any others: bounded and checked, whole or not at all, set aside where they are damaged.

Only the standard library is used here: the analysis reads these files without torch, ray or optuna.
"""

import json
import math
import os
import stat
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

#: More than any file of records holds; a larger one is not read.
MOST_BYTES = 2**28
#: Digits of the longest whole number in a record.
MOST_DIGITS = 20
#: Lists and objects within each other in a record.
MOST_LEVELS = 10
#: How much of a value a message shows.
SHOWN_CHARACTERS = 80


class RecordError(ValueError):
    """A record that cannot be read; the message names the file and what is wrong with it."""


class Damaged(RecordError):
    """A file that does not hold what was written to it, or belongs to something else: it may be set aside and made anew."""


def read_bytes(path: Path, most: int | None = MOST_BYTES) -> bytes:
    """Read a file.

    Raises: OSError; Damaged for a folder, a device, a pipe, or more than ``most`` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Damaged(f"{path}: no regular file")
    if most is not None and status.st_size > most:
        raise Damaged(f"{path}: {status.st_size:,} bytes, where at most {most:,} are expected")
    return path.read_bytes()


def read_json(path: Path, mend: str = "") -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises: RecordError, naming the file, when there is none or it cannot be read; Damaged as `parse`.
    """
    try:
        return parse(read_bytes(path), str(path), mend)
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from None


def parse(data: bytes, where: str, mend: str = "") -> dict[str, Any]:
    """Return the JSON object in a file's bytes. where: names the file; mend: what to do about it, after a semicolon.

    Raises: Damaged for what is no object, and for numbers that are not finite or that no record holds.
    """
    try:
        value = json.loads(data.decode(), parse_constant=_finite_float, parse_float=_finite_float, parse_int=_short_int)
        _check_levels(value)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{where}: not valid JSON ({error}){mend}") from None
    if not isinstance(value, dict):
        raise Damaged(f"{where}: expected a JSON object, found {type(value).__name__}{mend}")
    return value


def _check_levels(value: Any) -> None:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            item for outer in level if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]  # fmt: skip
    if level:
        raise ValueError(f"more than {MOST_LEVELS} levels of lists and objects")


def _finite_float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.{SHOWN_CHARACTERS}} is not a finite number")
    return value


def _short_int(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def check_fields(
    value: Mapping[str, Any], kinds: Mapping[str, Any], where: str, *, needed: Collection[str] | None = None, mend: str = ""
) -> None:
    """Compare an object's fields with their annotated types; needed: fields that it must have (default: all).

    Raises: Damaged, naming ``where``, for missing or unknown fields and for values of a wrong type.
    """
    if unknown := sorted(set(value) - set(kinds)):
        raise Damaged(f"{where}: unknown fields {_shown(', '.join(unknown))}; if a newer mldiv wrote them, take that one{mend}")
    if missing := sorted(set(kinds if needed is None else needed) - set(value)):
        raise Damaged(f"{where}: fields {', '.join(missing)} are missing{mend}")
    for name, item in value.items():
        if not _fits(kinds[name])(item):
            raise Damaged(f"{where}: {name} = {_shown(repr(item))}: expected {_words(kinds[name])}{mend}")


def _shown(text: str) -> str:
    return text[:SHOWN_CHARACTERS]


@cache
def _fits(annotation: Any) -> Callable[[Any], bool]:
    """Return what tells whether a value, as JSON has it, is of an annotated type."""
    inside = get_args(annotation)
    if annotation is Any:
        return lambda value: True
    if isinstance(annotation, UnionType):
        kinds = [_fits(kind) for kind in inside]
        return lambda value: any(fits(value) for fits in kinds)
    if get_origin(annotation) in (list, dict):
        fits = _fits(inside[-1])
        if get_origin(annotation) is list:
            return lambda value: isinstance(value, list) and all(map(fits, value))
        return lambda value: isinstance(value, dict) and all(map(fits, value.values()))
    if annotation is bool:
        return lambda value: isinstance(value, bool)
    kind = int | float if annotation is float else annotation
    return lambda value: isinstance(value, kind) and not isinstance(value, bool)


def _words(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def read_lines(
    path: Path, problems: list[str] | None = None, check: Callable[[dict[str, Any], str], None] = lambda line, where: None
) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; none when there is no file.

    check: takes a line and where it stands, raises Damaged for one that cannot be. problems: takes what is wrong with lines,
    which are then left out.

    Raises: Damaged, naming file and line, where ``problems`` is not given; RecordError when the file cannot be read.
    """
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from None
    for number, text in enumerate(data.splitlines(), 1):
        try:
            line = parse(text, where := f"{path}, line {number}")
            check(line, where)
        except Damaged as error:
            if problems is None:
                raise
            problems.append(str(error))
        else:
            yield line


def finite(value: Any) -> Any:
    """Return ``value`` with every non-finite number replaced by None (JSON has no NaN), in nested dicts and lists too."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one and nothing between.

    A link at ``path`` is replaced, not followed.

    Raises: OSError, with no trace left, when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with named(path), temporary.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name the file in errors of writing to it, of which a full disk's says only that."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def existing(path: Path) -> Path:
    """Return the path itself, or the nearest above it that exists."""
    return next(there for there in (path, *path.absolute().parents) if there.exists())


def set_aside(path: Path) -> str:
    """Rename what is damaged, so that it can be made anew and looked at; return its new name."""
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    return aside.name
