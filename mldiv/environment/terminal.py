"""What is printed: it never fails for the terminal's sake, and holds no secret and no codes that a terminal would obey."""

import contextlib
import difflib
import io
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

#: What a URL may hold that nobody else may read: s3://KEY:SECRET@bucket, where a secret may have any sign in it (of HDFS alone
#: a host has a port), and a parameter of the query with such a name.
SECRETS = (
    re.compile(r"(?<=://)(?<!hdfs://)[^/@:]*:.*(?=@)|(?<=hdfs://)[^/@:]*:[^/@]*(?=@)", re.IGNORECASE),
    re.compile(r"(?<=[?&])(?:sig|[^=&#]*(?:key|secret|token|password|credential|signature)[^=&#]*)=[^&#]+", re.IGNORECASE),
)


def hide_secrets(text: str) -> str:
    """Return the text with what is secret in a URL replaced by three stars."""
    for secret in SECRETS:
        text = secret.sub("***", text)
    return text


class Parser(ArgumentParser):
    """One that says what is wrong with a command line without the secrets in it, and takes no part of a flag for the flag."""

    def __init__(self, **given: Any) -> None:
        super().__init__(allow_abbrev=False, **given)

    def error(self, message: str) -> NoReturn:
        """Print the message after the usage, with the nearest flag to one that there is not, and end with code 2."""
        words = message.split() if message.startswith("unrecognized") else []
        unknown = [word.partition("=")[0] for word in words if word.startswith("--")]
        meant = [near for word in unknown for near in difflib.get_close_matches(word, self._option_string_actions, n=1)]
        super().error(hide_secrets(message) + (f"; did you mean {meant[0]}?" if meant else ""))


def plain(text: str) -> str:
    """Return the text with control and format characters written out (\\x1b); line ends, tabs and spaces of any kind stay."""
    lines = text.split("\n")
    return "\n".join(line if line.isprintable() else "".join(map(_written, line)) for line in lines)


def _written(character: str) -> str:
    if character.isprintable() or character == "\t" or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()


def first_few(names: Sequence[str], most: int, between: str = ", ") -> str:
    """List the first ``most`` of many names, and say how many more there are."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def nearby(folder: str | Path) -> str:
    """Name a folder from the working directory where it lies below, else by its whole path."""
    try:
        path = os.path.relpath(folder)
    except OSError:  # the working directory is gone
        return str(folder)
    return path if not path.startswith("..") else str(folder)


def say(text: str) -> None:
    """Print the text, `plain`, on standard error; on a terminal its lines end between words."""
    lines = plain(text).splitlines()
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        wrapped = (textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in lines)
        lines = [part for parts in wrapped for part in parts or [""]]
    print("\n".join(lines), file=sys.stderr)


def can_redraw() -> bool:
    """Return whether standard error is a terminal that can draw over a line, which a request for colours does not make it."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return terminal and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


@contextlib.contextmanager
def patient_output() -> Iterator[None]:
    """Let nothing that is printed meanwhile fail: neither a character that the terminal lacks nor a reader that has gone, or
    never was there."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who has called: Python has none then
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # head, say, has read enough; at its end Python would complain once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
