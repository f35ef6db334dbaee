"""A study as a command: from its flags to its tables."""

import sys
from collections.abc import Sequence

from mldiv.cli.flags import parse_flags
from mldiv.cli.run import ReportBuilder, Run
from mldiv.config import ConfigError
from mldiv.datasets.sources import DataError
from mldiv.records import RecordError
from mldiv.study import Study


def main(study: Study, report: ReportBuilder, argv: Sequence[str] | None = None) -> int:
    """Run the study as its flags say; the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    flags = parse_flags(study, argv)
    try:
        return Run(study, flags).start(report)
    except (ConfigError, RecordError, DataError) as error:
        print(f"{study.name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"{study.name}: {error}\nNothing that is recorded is lost: mend this and run the same command again.",
            file=sys.stderr,
        )
        return 1
