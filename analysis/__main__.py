"""``python -m analysis DIR``: a study's table, reliability diagram and answer, from its records alone."""

import argparse
import sys
from pathlib import Path

from analysis.build import build
from mldiv.records import RecordError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a study's output folder")
    parser.add_argument("--out", type=Path, help="where to write (default: DIR)")
    flags = parser.parse_args()
    try:
        print(build(flags.folder, flags.out))
    except (RecordError, OSError) as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
