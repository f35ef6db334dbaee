"""A study as a command: from its flags to its tables."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldiv.cli.flags import check_flags, parse_flags
from mldiv.cli.screen import interrupt
from mldiv.datasets.files import DataError
from mldiv.environment.checkout import use_analysis
from mldiv.environment.extras import install_hint
from mldiv.environment.terminal import patient_output, plain
from mldiv.plugins.loading import PluginError, load_named
from mldiv.records.checked_files import RecordError
from mldiv.settings.setting import ConfigError
from mldiv.study import ReportBuilder, Study

if TYPE_CHECKING:
    from mldiv.cli.run import StudyRun
    from mldiv.cli.screen.display import Display
    from mldiv.storage.object_store import SyncedFolder


def build_report(folder: Path, **more: Any) -> str:
    """Write a study's tables, figures and answer by the analysis that belongs to this mldiv; return what to print."""
    use_analysis()
    from analysis.build import build  # its libraries take seconds, and are needed when all is trained

    return build(folder, **more)


def main(
    study: Study, report: ReportBuilder = build_report, argv: Sequence[str] | None = None, *, prog: str | None = None
) -> int:
    """Run the study as its flags say; return 0 done, 1 failed, 2 bad input, 130 interrupted (SIGTERM 143, SIGHUP 129).

    prog: what was called.
    """
    flags = parse_flags(study, argv, prog)
    with patient_output():
        try:
            check_flags(flags)
            with shown(study) as display:
                # With torch and Optuna seconds, for which neither --help nor a wrong flag waits.
                from mldiv.cli.execute import execute
                from mldiv.cli.folder import open_folder
                from mldiv.cli.run import prepare

                load_named(flags.plugin)
                run = prepare(study, flags)
                with open_folder(run) as (run, folder):
                    return describe(run, folder, display) if flags.dry_run else execute(run, folder, report, display)
            return interrupt.INTERRUPTED
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


@contextmanager
def shown(study: Study) -> Iterator["Display"]:
    """Provide what shows the study; Ctrl-C before or after the training ends the context with a word, in it more is said."""
    from mldiv.cli.screen.display import Display  # with rich: no wrong flag waits for it

    with Display(study.name) as display, interrupt.answered(display.stopping):
        try:
            display.phase("reading the settings")
            yield display
        except KeyboardInterrupt:
            display.stop()
            display.say("interrupted. To continue: run the same command again.")


def describe(run: "StudyRun", folder: "SyncedFolder", display: "Display") -> int:
    """Print what the study would do; the exit code."""
    from mldiv.cli.dry_run import describe  # as above

    display.phase("timing a few steps")
    plan = describe(run, folder.local)
    display.stop()
    print(plain(plan))
    return 0
