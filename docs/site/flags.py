"""Writes docs/flags.md from what the commands say of themselves: ``python docs/site/flags.py > docs/flags.md``."""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from analysis.__main__ import main as analyse
from mldiv import __main__ as command
from mldiv.cli.flags import parse_flags
from mldiv.doctor.__main__ import parse
from studies.kernel_sweep import STUDY

HEAD = """# Flags

What the commands say of themselves with `--help`; made by `python docs/site/flags.py > docs/flags.md`, and a test compares the
two. What the flags are for: [studies](studies.md), [places](places.md), [growing](growing.md), [plug-ins](plugins.md).
"""

COMMANDS: dict[str, tuple[str, Callable[[], object]]] = {
    "A study": ("python studies/kernel_sweep.py", lambda: parse_flags(STUDY, ["--help"])),
    "The analysis": ("python -m analysis", analyse),
    "The doctor": ("python -m mldiv.doctor", lambda: parse(["--help"])),
    "The command": ("mldiv", lambda: command.main(["--help"])),
}


def page() -> str:
    """Return the page's text, lines of at most 100 characters."""
    said = [f"\n## {title}\n\n`{name} --help`\n\n```text\n{_help(run)}```\n" for title, (name, run) in COMMANDS.items()]
    return HEAD + "".join(said)


def _help(run: Callable[[], object]) -> str:
    text = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "100"}),
        mock.patch.object(sys, "argv", ["command", "--help"]),
        contextlib.redirect_stdout(text),
        contextlib.suppress(SystemExit),
    ):
        run()
    return text.getvalue()


if __name__ == "__main__":
    print(page(), end="")
