"""Make tables, figures, answer and report from records alone: ``python -m analysis DIR [DIR ...]``, several in one table."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from mldiv.environment.extras import install_hint
from mldiv.environment.terminal import Parser, hide_secrets, patient_output, plain
from mldiv.plugins.loading import load_named, load_recorded
from mldiv.records.checked_files import RecordError, existing
from mldiv.records.contents import ARCHIVE
from mldiv.records.study_files import read_study
from mldiv.storage.full_predictions import FILE
from mldiv.storage.object_store import OF_ANALYSIS, is_url, working_copy


def main(argv: Sequence[str] | None = None, prog: str = "python -m analysis") -> int:
    """Read the command line and write what it asks for; the exit code is 2 for a folder or flag that cannot be."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("places", nargs="+", metavar="DIR", help="a study's output folder or URL; several are joined")
    parser.add_argument(
        "--out", metavar="FOLDER", help="where to write (default: DIR; for several: joined, beside the first or here)"
    )
    parser.add_argument("--format", metavar="NAMES", help="what to write, of md,csv,tex,html,png (default: all)")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load own columns (or a module's name); repeatable"
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="score the test images anew under the labels in a .npy, .npz, .csv or .parquet (into "
        "--out, by default DIR/labels-FILE); needs what --keep-predictions full kept",
    )  # fmt: skip
    parser.add_argument(
        "--compact", metavar="FOLDER", help="write a compact copy of the study's records there, to publish, and nothing else"
    )
    parser.add_argument(
        "--unpack", metavar="FOLDER", help="write the records of DIR's compact copy there, and nothing else: the study's "
        "command goes on from them with --out FOLDER",
    )  # fmt: skip
    flags = parser.parse_args(argv)
    with patient_output():
        print("analysis: reading the records ...", file=sys.stderr)
        return _run(flags)
    return 1  # who reads the output has gone


def _run(flags: argparse.Namespace) -> int:
    try:
        from analysis.build import FORMATS  # with pandas and matplotlib seconds, for which --help does not wait
    except ModuleNotFoundError as error:
        print(f"analysis: {install_hint(error)}", file=sys.stderr)
        return 2
    formats = list(FORMATS) if flags.format is None else [name.strip() for name in flags.format.split(",")]
    try:
        if unknown := [name for name in formats if name not in FORMATS]:
            raise ValueError(f"--format {unknown[0]!r} is unknown; known: {', '.join(FORMATS)}")
        if flags.out is not None and is_url(flags.out):
            raise ValueError(f"--out {hide_secrets(flags.out)}: a URL, where a folder of this machine is expected")
        for flag, place in (("out", flags.out), ("compact", flags.compact), ("unpack", flags.unpack)):
            if place is not None:
                _check_folder(flag, Path(place))
        load_named(flags.plugin)
        if flags.compact is not None:
            text = _compact(flags.places, flags.compact)
        elif flags.unpack is not None:
            text = _unpack(flags.places, flags.unpack)
        else:
            out, labels = (None if place is None else Path(place) for place in (flags.out, flags.labels))
            text = _analyse(flags.places, out, formats, labels)
        print(plain(text))
    except BrokenPipeError:
        raise
    except (RecordError, OSError, ValueError) as error:
        print(plain(f"analysis: {error}"), file=sys.stderr)
        return 2
    return 0


def _check_folder(flag: str, folder: Path) -> None:
    """Raise ValueError where a file is in the way of a folder to write to, before anything is read."""
    if not (there := existing(folder)).is_dir():
        raise ValueError(f"--{flag} {folder}: {there} is a file, where a folder is expected; name another")


def _compact(places: Sequence[str], out: str) -> str:
    """Write a compact copy of one study; return what to say of it.

    Raises: RecordError, OSError; ValueError for several studies, or a URL that cannot be.
    """
    from analysis.compact.copy import compact  # as above

    if len(places) > 1 or is_url(out):
        raise ValueError("--compact takes one study and a folder of this machine")
    with working_copy(places[0], fetch=False) as copy:
        copy.pull_study()
        return compact(copy.local, Path(out))


def _unpack(places: Sequence[str], out: str) -> str:
    """Write the records of one compact copy into a new folder; return what to say of them.

    Raises: RecordError, OSError; ValueError for several copies, a URL, a folder without one, or one that holds something.
    """
    from analysis.compact.copy import unpack  # as above

    if len(places) > 1 or is_url(places[0]) or is_url(out):
        raise ValueError("--unpack takes one compact copy and a folder of this machine")
    packed, folder = Path(places[0]) / ARCHIVE, Path(out)
    if not packed.exists():
        raise ValueError(f"--unpack: {places[0]} holds no {ARCHIVE}")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--unpack: {folder} holds something already; name a new folder")
    return f"{folder}: {unpack(packed, folder)}\nTo go on from it: the study's command with --out {shlex.quote(str(folder))}"


def _analyse(places: Sequence[str], out: Path | None, formats: Sequence[str], labels: Path | None) -> str:
    """Write one study's tables, where the study is unless ``out`` says otherwise, or those of several joined.

    Raises: RecordError, OSError; ValueError for a URL that cannot be.
    """
    if out is None and len(places) == 1 and Path(places[0]).is_dir() and not os.access(places[0], os.W_OK):
        raise RecordError(f"{places[0]}: cannot be written; --out FOLDER names another folder for what is made of it")
    if labels is not None and len(places) > 1:
        raise RecordError("--labels is for one study: their test images are not the same")
    from analysis.build import build  # as above
    from analysis.join import join
    from analysis.rescoring.labels import read

    with ExitStack() as stack:
        copies = [stack.enter_context(working_copy(place, fetch=False)) for place in places]
        for copy in copies:
            copy.pull_study(OF_ANALYSIS if labels is None else (*OF_ANALYSIS, FILE))
            if (copy.local / "study.json").exists():  # a compact copy is read without plug-ins
                header = read_study(copy.local)
                for word in load_recorded(header.plugins, header.plugin_files, "column"):
                    print(plain(f"analysis: {word}"), file=sys.stderr)
        if labels is not None:
            folder = Path("" if is_url(places[0]) else places[0]) / f"labels-{labels.stem}"
            return build(copies[0].local, out or folder, formats, labels=read(labels))
        if len(copies) == 1:
            text = build(copies[0].local, out, formats, place=places[0] if out is None else "")
            copies[0].push(folders=False)
            return text
        here = Path("joined") if any(is_url(place) for place in places) else None
        return join([copy.local for copy in copies], out or here, formats)


if __name__ == "__main__":
    raise SystemExit(main())
