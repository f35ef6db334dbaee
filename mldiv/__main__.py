"""The command `mldiv`: studies and reports, wherever mldiv is installed, and what concerns no single study."""

import argparse
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mldiv.cli.main import main as run_study
from mldiv.environment.checkout import STUDIES, use_analysis
from mldiv.environment.terminal import Parser, plain
from mldiv.plugins import loading
from mldiv.plugins.loading import PluginError
from mldiv.study import STUDIES as STUDIES_OF_PLUGINS
from mldiv.study import Study


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code is the command's, 2 where it cannot be."""
    listed = "\n".join(f"  {name:<14}{help}" for name, (help, _) in COMMANDS.items())
    parser = Parser(
        prog="mldiv", description="What makes pairs of Bayesian networks teach each other better.",
        epilog=f"commands (each has its own --help):\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its own flags")
    flags = parser.parse_args(argv)
    try:
        return COMMANDS[flags.command][1](flags.rest)
    except PluginError as error:
        print(plain(f"mldiv: {error}"), file=sys.stderr)
        return 2


def run(argv: Sequence[str]) -> int:
    """Run a study of `mldiv studies`, or one that a file of one's own defines as STUDY."""
    parser = Parser(prog="mldiv run", description=COMMANDS["run"][0])
    parser.add_argument("study", metavar="STUDY", help=f"{', '.join(paths())}, or a file that defines STUDY")
    parser.add_argument("flags", nargs=argparse.REMAINDER, metavar="...", help="those of the study: mldiv run STUDY --help")
    given = parser.parse_args(argv)
    path = paths().get(given.study, Path(given.study))
    if path.is_file():
        study = defined(path)
        if study is None:
            parser.error(f"{path} defines no STUDY")
    else:
        study = entered(given.flags).get(given.study)
        if study is None:
            parser.error(f"no study is called {given.study}, no plug-in enters one, and no file is: mldiv studies")
    return run_study(study, argv=given.flags, prog=f"mldiv run {given.study}")


def entered(flags: Sequence[str]) -> dict[str, Study]:
    """Return the studies of the plug-ins that a study's flags name, and of those that are installed."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--plugin", action="append", default=[])
    loading.load_named(known.parse_known_args(flags)[0].plugin)
    return STUDIES_OF_PLUGINS


def paths() -> dict[str, Path]:
    """Return the files of the studies that come with mldiv, by name."""
    return {path.stem: path for path in sorted(STUDIES.glob("*.py"))}


def defined(path: Path) -> Study | None:
    """Return the study that a file defines, by running it; None where there is none.

    Raises: PluginError where it cannot be run, or defines something else.
    """
    try:
        study = runpy.run_path(str(path)).get("STUDY")
    except Exception as error:
        raise PluginError(f"{path}: {loading.described(error, str(path))}") from error
    if not isinstance(study, Study | None):
        raise PluginError(f"{path}: STUDY is of the type {type(study).__name__}, where a mldiv.study.Study is expected")
    return study


def list_studies(argv: Sequence[str]) -> int:
    """Print every study with the question that it answers."""
    parser = Parser(prog="mldiv studies", description=COMMANDS["studies"][0])
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load a plug-in first; repeatable")
    given = parser.parse_args(argv)
    found = {name: defined(path) for name, path in paths().items()}
    found |= entered([part for name in given.plugin for part in ("--plugin", name)])
    for name, study in found.items():
        print(f"{name:<16}{study.question if study else '-'}")
    return 0


def report(argv: Sequence[str]) -> int:
    """Do what `python -m analysis` does."""
    use_analysis()
    from analysis.__main__ import main as analyse

    return analyse(argv, prog="mldiv report")


def doctor(argv: Sequence[str]) -> int:
    """Do what `python -m mldiv.doctor` does."""
    from mldiv.doctor.__main__ import run as examine

    examine(argv, prog="mldiv doctor")


def export(argv: Sequence[str]) -> int:
    """Write a study's records for another tool."""
    from mldiv.export.command import main as write  # with the records' checks: half a second

    return write(argv, COMMANDS["export"][0])


def check_plugin(argv: Sequence[str]) -> int:
    """Load a plug-in, print a line for each of its entries; the exit code is 1 where one has faults, or there is none."""
    parser = Parser(prog="mldiv check-plugin", description=COMMANDS["check-plugin"][0])
    parser.add_argument("plugin", metavar="FILE", help="a file, or the dotted name of a module")
    given = parser.parse_args(argv).plugin
    from mldiv.plugins.contracts import faults  # with torch: seconds, for which --help does not wait

    plugin = loading.find(given)
    loading.load([plugin])
    found, wrong = loading.entered(plugin.name), 0
    for kind, names in found.items():
        for name in names:
            problems = faults(kind, name)
            wrong += bool(problems)
            print(plain(f"{kind} {name}: {'; '.join(problems) or 'ok'}"))
    if not found:
        print(plain(f"{Path(given).name} enters nothing: {', '.join(name for _, name in loading.REGISTRIES.values())}"))
    return 1 if wrong or not found else 0


#: By its name: what a command does, and the function that takes its own flags and returns the exit code.
COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "run": ("run a study: mldiv run kernel_sweep --preset demo", run),
    "studies": ("list the studies, each with the question that it answers", list_studies),
    "report": ("make a study's tables, figures and report from its records", report),
    "doctor": ("say what in this installation or cluster would make a long sweep fail", doctor),
    "export": ("write a study's trials, scores, table and figures for TensorBoard, MLflow or W&B", export),
    "check-plugin": ("say what a plug-in's entries do not keep of what is asked of their kind", check_plugin),
}


if __name__ == "__main__":
    raise SystemExit(main())
