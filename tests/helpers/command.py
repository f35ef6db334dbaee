"""A study's command, called as a person calls it, and what it would run."""

from mldiv.cli.flags import parse_flags
from mldiv.cli.main import main
from mldiv.cli.run import StudyRun, prepare


def refuse_to_build(folder, place):
    """Take the place of a report where none may be written."""
    raise AssertionError("nothing may be built")


def prepared(study, *argv) -> StudyRun:
    """Check the flags and return the run."""
    return prepare(study, parse_flags(study, argv))


def run(study, capsys, *argv):
    """Return exit code, output, and those lines of errors that are not usual."""
    code = main(study, refuse_to_build, argv)
    out, err = capsys.readouterr()
    usual = "preset demo (no GPU", "reading the settings ...", "timing a few steps ..."
    return code, out, [line for line in err.splitlines() if not any(words in line for words in usual)]
