"""A study as a command: from its flags to its tables."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldiv.checkout import use_analysis
from mldiv.cli.flags import check_flags, parse_flags
from mldiv.cli.screen import interrupt
from mldiv.datasets.files import DataError
from mldiv.extras import install_hint
from mldiv.plugins.loading import PluginError, load_named
from mldiv.records import RecordError
from mldiv.setting import ConfigError
from mldiv.study import FindUndecided, ReportBuilder, Study
from mldiv.terminal import patient_output, plain

if TYPE_CHECKING:
    from mldiv.cli.screen.display import Display


def build_report(folder: Path, **more: Any) -> str:
    """Write a study's tables, figures and answer by the analysis that belongs to this mldiv; return what to print."""
    use_analysis()
    from analysis.build import build  # its libraries take seconds, and are needed when all is trained

    return build(folder, **more)


def find_undecided(folder: Path) -> list[str]:
    """Name the comparisons that a study's folder leaves open, by the same analysis."""
    use_analysis()
    from analysis.build import undecided  # as above

    return undecided(folder)


def main(
    study: Study, report: ReportBuilder = build_report, argv: Sequence[str] | None = None, *,
    undecided: FindUndecided = find_undecided, prog: str | None = None,
) -> int:  # fmt: skip
    """Run the study as its flags say; the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted.

    undecided: names the comparisons that a study's folder leaves open, for ``--seeds auto``; prog: what was called.
    """
    flags = parse_flags(study, argv, prog)
    with patient_output():
        try:
            check_flags(flags)
            return run_as_flagged(study, flags, report, undecided)
        except (ConfigError, RecordError, DataError, PluginError) as error:
            print(plain(f"{study.name}: {error}"), file=sys.stderr)
            return 2
        except BrokenPipeError:
            raise
        except OSError as error:
            mend = "Nothing that is recorded is lost: mend this and run the same command again."
            print(plain(f"{study.name}: {error}\n{mend}"), file=sys.stderr)
            return 1
        except ModuleNotFoundError as error:
            print(f"{study.name}: {install_hint(error)}", file=sys.stderr)
            return 2
    return 1  # who reads the output has gone


def run_as_flagged(study: Study, flags: Namespace, report: ReportBuilder, undecided: FindUndecided) -> int:
    """Do what the flags say, showing it; the exit code."""
    from mldiv.cli.screen.display import Display  # with rich: no wrong flag waits for it

    with Display(study.name) as display, interrupt.answered(display.stopping):
        try:
            return _run(study, flags, report, undecided, display)
        except KeyboardInterrupt:  # before or after the training, which says more
            display.stop()
            display.say("interrupted. To continue: run the same command again.")
            return interrupt.INTERRUPTED


def _run(study: Study, flags: Namespace, report: ReportBuilder, undecided: FindUndecided, display: "Display") -> int:
    display.phase("reading the settings")
    # With torch and Optuna seconds, for which neither --help nor a wrong flag waits.
    from mldiv.cli.dry_run import describe
    from mldiv.cli.execute import execute
    from mldiv.cli.folder import open_folder
    from mldiv.cli.run import prepare

    load_named(flags.plugin)
    run = prepare(study, flags)
    with open_folder(run) as (run, folder):
        if not run.dry_run:
            return execute(run, folder, report, undecided, display)
        display.phase("timing a few steps")
        plan = describe(run, folder.local)
        display.stop()
        print(plain(plan))
        return 0
