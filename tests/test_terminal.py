"""What is printed never fails, and holds nothing that a terminal would obey."""

import os
import subprocess
import sys

import pytest

from mldiv.environment.terminal import plain

PRINTS = "from mldiv.environment.terminal import patient_output\nwith patient_output():\n    print({what})\nprint('after')"


def run(what, **environment):
    return subprocess.run(
        [sys.executable, "-c", PRINTS.format(what=what)], capture_output=True, env=os.environ | environment, check=False
    )


def test_codes_are_written_out():
    assert plain("a\x1b[31mb\x07\r\x9b\u202e") == r"a\x1b[31mb\x07\r\x9b\u202e"


def test_words_lines_and_letters_stay():
    text = "ä ± ² 漢\n\tnext"
    assert plain(text) == text


def test_a_terminal_that_lacks_letters_gets_them_written_out():
    for encoding in ("ascii", "latin-1"):
        done = run("'\u00b1 \u6f22'", PYTHONIOENCODING=encoding)
        assert done.returncode == 0 and b"after" in done.stdout, done.stderr
        assert rb"\u6f22" in done.stdout


def test_a_reader_that_goes_away_is_no_failure():
    command = f'{sys.executable} -c "{PRINTS.format(what="chr(10).join(map(str, range(10**6)))")}" | head -1'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n", b"")


@pytest.mark.parametrize("closed", ["1", "2", "12"])
def test_closed_streams_are_no_failure(closed):
    """Before, a study ended at its first word, or with its tables unwritten."""
    program = PRINTS.format(what="'x', file=sys.stderr, flush=True").replace("print('after')", "print(sys.stderr.isatty())")
    shut = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {shut}', sys.executable, f"import sys\n{program}"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"" if "1" in closed else b"False\n"), done.stderr
