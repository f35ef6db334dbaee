"""Make tables, figures, answer and report from records alone: ``python -m analysis DIR [DIR ...]``, several in one table."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from analysis.build import FORMATS, build
from analysis.compact.copy import compact
from analysis.join import join
from mldiv.plugins.loading import load_named
from mldiv.records import RecordError
from mldiv.storage.object_store import is_url, working_copy
from mldiv.terminal import Parser, hide_secrets, patient_output, plain


def main() -> int:
    """Read the command line and write what it asks for; the exit code is 2 for a folder or flag that cannot be."""
    parser = Parser(prog="python -m analysis", description=__doc__)
    parser.add_argument("places", nargs="+", metavar="DIR", help="a study's output folder or URL; several are joined")
    parser.add_argument(
        "--out", metavar="FOLDER", help="where to write (default: DIR; for several: joined, beside the first or here)"
    )
    parser.add_argument("--format", default=",".join(FORMATS), help=f"what to write, of {','.join(FORMATS)} (default: all)")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load own columns (or a module's name); repeatable"
    )
    parser.add_argument(
        "--compact", metavar="FOLDER", help="write a compact copy of the study's records there, to publish, and nothing else"
    )
    flags = parser.parse_args()
    with patient_output():
        return _run(flags)
    return 1  # who reads the output has gone


def _run(flags: argparse.Namespace) -> int:
    formats = [name.strip() for name in flags.format.split(",")]
    if unknown := [name for name in formats if name not in FORMATS]:
        print(f"analysis: --format {unknown[0]!r} is unknown; known: {', '.join(FORMATS)}", file=sys.stderr)
        return 2
    if flags.out is not None and is_url(flags.out):
        print(f"analysis: --out {hide_secrets(flags.out)}: a URL, where a folder of this machine is expected", file=sys.stderr)
        return 2
    try:
        load_named(flags.plugin)
        if flags.compact is not None:
            return _compact(flags.places, flags.compact)
        print(plain(_analyse(flags.places, None if flags.out is None else Path(flags.out), formats)))
    except BrokenPipeError:
        raise
    except (RecordError, OSError, ValueError) as error:
        print(plain(f"analysis: {error}"), file=sys.stderr)
        return 2
    return 0


def _compact(places: Sequence[str], out: str) -> int:
    """Write a compact copy of one study.

    Raises: RecordError, OSError; ValueError for several studies, or a URL that cannot be.
    """
    if len(places) > 1 or is_url(out):
        raise ValueError("--compact takes one study and a folder of this machine")
    with working_copy(places[0], fetch=False) as copy:
        copy.pull_study()
        print(plain(compact(copy.local, Path(out))))
    return 0


def _analyse(places: Sequence[str], out: Path | None, formats: Sequence[str]) -> str:
    """Write one study's tables, where the study is unless ``out`` says otherwise, or those of several joined.

    Raises: RecordError, OSError; ValueError for a URL that cannot be.
    """
    with ExitStack() as stack:
        copies = [stack.enter_context(working_copy(place, fetch=False)) for place in places]
        for copy in copies:
            copy.pull_study()
        if len(copies) == 1:
            text = build(copies[0].local, out, formats, place=places[0] if out is None else "")
            copies[0].push(folders=False)
            return text
        here = Path("joined") if any(is_url(place) for place in places) else None
        return join([copy.local for copy in copies], out or here, formats)


if __name__ == "__main__":
    raise SystemExit(main())
