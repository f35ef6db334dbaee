"""A study as a command: from its flags to its tables."""

import sys
from collections.abc import Sequence

from mldiv.cli.dry_run import describe
from mldiv.cli.execute import ReportBuilder, execute
from mldiv.cli.flags import parse_flags
from mldiv.cli.run import open_folder, prepare
from mldiv.config import ConfigError
from mldiv.datasets.sources import DataError
from mldiv.records import RecordError
from mldiv.study import Study


def main(study: Study, report: ReportBuilder, argv: Sequence[str] | None = None) -> int:
    """Run the study as its flags say; the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    flags = parse_flags(study, argv)
    try:
        run = prepare(study, flags)
        with open_folder(run) as folder:
            if not run.dry_run:
                return execute(run, folder, report)
            print(describe(run, folder.local))
            return 0
    except (ConfigError, RecordError, DataError) as error:
        print(f"{study.name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"{study.name}: {error}\nNothing that is recorded is lost: mend this and run the same command again.",
            file=sys.stderr,
        )
        return 1
