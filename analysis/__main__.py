"""Make tables, figures, answer and report from records alone: ``python -m analysis DIR [DIR ...]``, several in one table."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from analysis.build import FORMATS, build
from analysis.join import join
from mldiv.plugins.loading import load_named, load_recorded
from mldiv.records import RecordError, read_study
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
        print(plain(_analyse(flags.places, None if flags.out is None else Path(flags.out), formats)))
    except BrokenPipeError:
        raise
    except (RecordError, OSError, ValueError) as error:
        print(plain(f"analysis: {error}"), file=sys.stderr)
        return 2
    return 0


def _analyse(places: Sequence[str], out: Path | None, formats: Sequence[str]) -> str:
    """Write one study's tables, where the study is unless ``out`` says otherwise, or those of several joined.

    Raises: RecordError, OSError; ValueError for a URL that cannot be.
    """
    with ExitStack() as stack:
        copies = [stack.enter_context(working_copy(place, fetch=False)) for place in places]
        for copy in copies:
            copy.pull_study()
            header = read_study(copy.local)
            for word in load_recorded(header.plugins, header.plugin_files, "column"):
                print(plain(f"analysis: {word}"), file=sys.stderr)
        if len(copies) == 1:
            text = build(copies[0].local, out, formats, place=places[0] if out is None else "")
            copies[0].push(folders=False)
            return text
        here = Path("joined") if any(is_url(place) for place in places) else None
        return join([copy.local for copy in copies], out or here, formats)


if __name__ == "__main__":
    raise SystemExit(main())
