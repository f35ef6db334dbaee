"""A study as a command: from its flags to its tables."""

import sys
from collections.abc import Sequence

from mldiv.cli.dry_run import describe
from mldiv.cli.execute import FindUndecided, ReportBuilder, execute
from mldiv.cli.flags import parse_flags
from mldiv.cli.folder import open_folder
from mldiv.cli.run import prepare
from mldiv.config import ConfigError
from mldiv.datasets.sources import DataError
from mldiv.plugins.loading import PluginError, load_named
from mldiv.records import RecordError
from mldiv.study import Study
from mldiv.terminal import patient_output, plain


def main(
    study: Study, report: ReportBuilder, argv: Sequence[str] | None = None, *, undecided: FindUndecided | None = None
) -> int:  # fmt: skip
    """Run the study as its flags say; the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted.

    undecided: names the comparisons that a study's folder leaves open, for ``--seeds auto``.
    """
    flags = parse_flags(study, argv)
    with patient_output():
        try:
            load_named(flags.plugin)
            run = prepare(study, flags)
            if run.header.looks and undecided is None:
                raise ConfigError("--seeds auto: this study does not say what is undecided; its main takes undecided=")
            with open_folder(run) as (run, folder):
                if not run.dry_run:
                    return execute(run, folder, report, undecided)
                print(plain(describe(run, folder.local)))
                return 0
        except (ConfigError, RecordError, DataError, PluginError) as error:
            print(plain(f"{study.name}: {error}"), file=sys.stderr)
            return 2
        except BrokenPipeError:
            raise
        except OSError as error:
            mend = "Nothing that is recorded is lost: mend this and run the same command again."
            print(plain(f"{study.name}: {error}\n{mend}"), file=sys.stderr)
            return 1
    return 1  # who reads the output has gone
