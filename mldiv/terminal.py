"""What is printed: it never fails for the terminal's sake, and holds no codes that a terminal would obey."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator


def plain(text: str) -> str:
    """Return the text with control characters written out (\\x1b), line ends and tabs but not these left as they are."""
    return "".join(character if character.isprintable() or character in "\n\t" else _written(character) for character in text)


def _written(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


@contextlib.contextmanager
def patient_output() -> Iterator[None]:
    """Let nothing that is printed meanwhile fail: neither a character that the terminal lacks nor a reader that has gone."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # head, say, has read enough; at its end Python would complain once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
