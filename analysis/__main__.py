"""``python -m analysis DIR [DIR ...]``: tables, figures, answer and report from records alone; several studies in one table."""

import argparse
import sys
from pathlib import Path

from analysis.build import FORMATS, build
from analysis.join import join
from mldiv.records import RecordError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="a study's output folder; several are joined")
    parser.add_argument("--out", type=Path, help="where to write (default: DIR; for several: joined, beside the first)")
    parser.add_argument("--format", default=",".join(FORMATS), help=f"what to write, of {','.join(FORMATS)} (default: all)")
    flags = parser.parse_args()
    formats = [name.strip() for name in flags.format.split(",")]
    if unknown := [name for name in formats if name not in FORMATS]:
        print(f"analysis: --format {unknown[0]!r} is unknown; known: {', '.join(FORMATS)}", file=sys.stderr)
        return 2
    try:
        several = len(flags.folders) > 1
        print(join(flags.folders, flags.out, formats) if several else build(flags.folders[0], flags.out, formats))
    except (RecordError, OSError) as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
