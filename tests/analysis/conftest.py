"""What the analysis's tests share: the command line without a process of its own."""

import runpy
from pathlib import Path
from typing import NamedTuple

import pytest

import analysis


class Done(NamedTuple):
    """What a command left: its exit status and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(monkeypatch, capsys):
    """``python -m analysis ARGUMENTS`` in this process: importing everything anew costs seconds and shows nothing more."""
    script = Path(analysis.__file__).parent / "__main__.py"

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["analysis", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(script), run_name="__main__")
        out, err = capsys.readouterr()
        return Done(end.value.code, out, err.removeprefix("analysis: reading the records ...\n"))

    return run
